//! The laboratory itself: what it carries over plain kernel devices it carries unchanged, so that a
//! difference seen through a switch is the switch's.

mod lab;

use lab::frames::{BROADCAST, Wire, frame, mac, passes, payload};
use lab::{Host, inside, join, servers};

#[test]
fn frames_cross_a_plain_cable_byte_by_byte() {
    let (a, b) = (Host::new(), Host::new());
    let link = join(&a, &b);
    a.ping(&link.b.to_string());
    let (from, to) = (Wire::open(&a, &link.device), Wire::open(&b, &link.device));
    for tags in [&[][..], &[(0x8100, 0x6005)], &[(0x88a8, 0x0064), (0x8100, 0x0007)]] {
        passes(&from, &to, &frame(BROADCAST, mac(1), tags, &payload(60)));
    }
}

#[test]
fn a_plain_tap_and_the_kernel_exchange_frames() {
    let host = Host::new();
    let tap = inside(&host, || tun_tap::Iface::without_packet_info("p0", tun_tap::Mode::Tap).expect("TAP"));
    host.ok(&["ip", "link", "set", "p0", "up"]);
    let wire = Wire::open(&host, "p0");
    let sent = frame(BROADCAST, mac(2), &[(0x8100, 9)], &payload(100));
    tap.send(&sent).expect("send");
    assert!(wire.receives(&sent, lab::SOON));
}

#[test]
fn the_neighbours_work_without_a_switch() {
    let (a, b) = (Host::new(), Host::new());
    let link = join(&a, &b);
    let address = link.b.to_string();
    let lease = |last: u8| {
        let [x, y, z, _] = link.b.octets();
        format!("{x}.{y}.{z}.{last}")
    };
    let _dhcp = servers::dnsmasq(&b, &link.device, &lease(50), &lease(60));
    let client = servers::DhcpClient::start(&a, &link.device);
    client.lease();
    client.renew();
    servers::nc_carries_text(&a, &b, &address);
    servers::bulk_arrives_intact(&a, &b, &address, 1 << 20);
    let _proxy = servers::tinyproxy(&b, Some(("user", "password")));
    let page = "server { listen 8080; location / { return 200 hello; } }";
    let _nginx = servers::nginx(&b, page, servers::at(link.b, 8080));
    let url = format!("http://{address}:8080/");
    let proxy = format!("http://user:password@{address}:8888");
    assert_eq!(a.ok(&["curl", "-sS", "--proxytunnel", "-x", &proxy, &url]), "hello");
    assert!(servers::tinyproxy_log(&b).contains("CONNECT"));
    let ca = servers::Ca::new("lab");
    let pem = ca.server(&b, "server", &[&address]);
    let ca_file = a.file("ca.pem", &ca.pem);
    let verdict = a.ok(&["openssl", "verify", "-CAfile", &ca_file, &pem.cert]);
    assert!(verdict.contains("OK"), "{verdict}");
}
