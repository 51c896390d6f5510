//! The DHCP story: a server on one host, a client on the other, and the switch between them.

mod lab;

use lab::servers::{DhcpClient, bulk_arrives_intact, dnsmasq, nc_carries_text};
use lab::switch::TwoHosts;
use lab::{Host, Switch, pair};

#[test]
fn lease_renewal_and_text() {
    let hosts = TwoHosts::new();
    let pair = pair(&hosts);
    hosts.a.ok(&["ip", "addr", "flush", "dev", "t0", "scope", "global"]);
    let _server = dnsmasq(&hosts.b, "t0", "10.1.0.50", "10.1.0.99");
    let client = DhcpClient::start(&hosts.a, "t0");
    let lease = client.lease();
    assert!(lease.starts_with("10.1.0."), "{lease}");
    client.renew();
    nc_carries_text(&hosts.a, &hosts.b, "10.1.0.2");
    nc_carries_text(&hosts.b, &hosts.a, &lease);
    assert!(pair.a.ctl_ok(&["listif"]).contains(&lease), "listif shows the address that came by DHCP");
}

/// The classic VM bridging bug, "bad udp cksum": on a veth the kernel leaves checksums to be completed by
/// the next device. A switch that carries such frames on as they are breaks DHCP and TCP.
#[test]
fn lease_from_a_server_whose_frames_have_partial_checksums() {
    let hosts = TwoHosts::new();
    let vm = Host::new();
    hosts.b.ok(&["ip", "link", "add", "vm0", "type", "veth", "peer", "name", "eth0", "netns", vm.name()]);
    vm.ok(&["ip", "addr", "add", "10.1.0.2/24", "dev", "eth0"]);
    vm.ok(&["ip", "link", "set", "eth0", "up"]);
    let features = vm.ok(&["ethtool", "-k", "eth0"]);
    assert!(features.contains("tx-checksumming: on"), "the premise of this test: {features}");

    let b = Switch::start(&hosts.b, &[]);
    b.ctl_ok(&["addport", "netdev", "vm0"]);
    let a = Switch::start(&hosts.a, &["--no-listen"]);
    a.ctl_ok(&["addport", "tap", "t0"]);
    a.ctl_ok(&["addport", "client", &format!("ws://{}/", hosts.link.b), "--name", "link"]);
    a.wait_state("link", "up");

    let _server = dnsmasq(&vm, "eth0", "10.1.0.50", "10.1.0.99");
    let client = DhcpClient::start(&hosts.a, "t0");
    let lease = client.lease();
    client.renew();
    nc_carries_text(&hosts.a, &vm, "10.1.0.2");
    nc_carries_text(&vm, &hosts.a, &lease);
    // TCP from the veth comes as GSO frames, to it as GRO: both are split or merged correctly.
    bulk_arrives_intact(&vm, &hosts.a, &lease, 4 << 20);
    bulk_arrives_intact(&hosts.a, &vm, "10.1.0.2", 4 << 20);
}
