//! Devices as netlink changes them, and tells of changes.

use etherws::frame::MacAddr;
use etherws::port::PortError;
use etherws::port::netif::{self, Event};
use etherws::port::spec::InterfaceChange;
use etherws::sys::tun::Tap;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Cable, PATIENCE, change, in_namespace};

fn texts(netif: &netif::Netif) -> Vec<String> {
    netif.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn interfaces_change_as_asked_and_not_by_halves() {
    in_namespace("interfaces_change_as_asked_and_not_by_halves", async || {
        let _tap = Tap::open("t0", false, 1).unwrap();
        assert!(matches!(netif::status("nosuch").await, Err(PortError::NotFound(_))));
        let mac: MacAddr = "02:11:22:33:44:55".parse().unwrap();
        let all =
            InterfaceChange { mtu: Some(9000), mac: Some(mac), ..change(&["10.0.0.1/24", "fd00::1/64"]) };
        netif::set_up("t0", true).await.unwrap();
        netif::apply("t0", &all).await.unwrap();
        let now = netif::status("t0").await.unwrap();
        assert_eq!((now.mtu, now.mac, now.up), (9000, mac, true));
        assert_eq!(texts(&now), ["10.0.0.1/24", "fd00::1/64"]);
        assert_eq!(now.ipv4().unwrap().to_string(), "10.0.0.1/24");

        for (wanted, outcome) in [
            // The same again.
            (&["10.0.0.1/24"][..], &["10.0.0.1/24", "fd00::1/64"][..]),
            // In the same subnet: without care the kernel would take the new one away with the old.
            (&["10.0.0.2/24"], &["10.0.0.2/24", "fd00::1/64"]),
            (&["10.0.0.3/24", "10.0.0.4/24"], &["10.0.0.3/24", "10.0.0.4/24", "fd00::1/64"]),
            // Only the prefix length.
            (&["10.0.0.3/16"], &["10.0.0.3/16", "fd00::1/64"]),
            (&["fd00::1/48"], &["10.0.0.3/16", "fd00::1/48"]),
            (&["fd00::2/64", "192.0.2.1/31"], &["192.0.2.1/31", "fd00::2/64"]),
        ] {
            netif::apply("t0", &change(wanted)).await.unwrap();
            assert_eq!(texts(&netif::status("t0").await.unwrap()), outcome, "{wanted:?}");
        }

        let before = netif::status("t0").await.unwrap();
        let good = InterfaceChange {
            mtu: Some(1400),
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
            ..change(&["10.5.5.5/8"])
        };
        for wrong in [
            InterfaceChange { mtu: Some(575), ..good.clone() },
            InterfaceChange { mtu: Some(70_000), ..good.clone() },
            InterfaceChange { mac: Some(MacAddr::BROADCAST), ..good.clone() },
            InterfaceChange { mac: Some(MacAddr::ZERO), ..good.clone() },
            InterfaceChange { address: change(&["10.5.5.5/8", "224.0.0.1/24"]).address, ..good.clone() },
            InterfaceChange { address: change(&["0.0.0.0/0"]).address, ..good.clone() },
            InterfaceChange {
                mtu: Some(1279),
                address: change(&["10.5.5.5/8", "fd00::9/64"]).address,
                mac: None,
            },
        ] {
            let error = netif::apply("t0", &wrong).await.unwrap_err();
            assert!(matches!(&error, PortError::Invalid(text) if text.contains("t0")), "{error}");
            assert_eq!(netif::status("t0").await.unwrap(), before, "{wrong:?}");
        }
        // What only the kernel knows: IPv6 is off. MAC, MTU and the IPv4 address go back.
        std::fs::write("/proc/sys/net/ipv6/conf/t0/disable_ipv6", "1").unwrap();
        let before = netif::status("t0").await.unwrap();
        let refused = InterfaceChange { address: change(&["10.5.5.5/8", "fd00::9/64"]).address, ..good };
        let error = netif::apply("t0", &refused).await.unwrap_err();
        assert!(matches!(&error, PortError::Failed(text) if text.contains("disable_ipv6")), "{error}");
        assert_eq!(netif::status("t0").await.unwrap(), before);

        netif::set_up("t0", false).await.unwrap();
        assert!(!netif::status("t0").await.unwrap().up);
        netif::delete("t0").await.unwrap();
        assert_eq!(netif::exists("t0").await, Ok(false));
        assert!(matches!(netif::delete("t0").await, Err(PortError::NotFound(_))));
    });
}

#[test]
fn big_tcp_is_pinned() {
    in_namespace("big_tcp_is_pinned", async || {
        use rtnetlink::packet_route::link::LinkAttribute;
        let _cable = Cable::lay().await;
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let mut message =
            LinkMessageBuilder::<LinkUnspec>::new().index(netif::status("b").await.unwrap().index).build();
        message.attributes = vec![LinkAttribute::GsoMaxSize(150_000), LinkAttribute::GroMaxSize(150_000)];
        handle.link().set(message).execute().await.unwrap();
        netif::pin_gso("b").await.unwrap();
        let mut links = std::pin::pin!(handle.link().get().match_name("b").execute());
        let link = futures_util::TryStreamExt::try_next(&mut links).await.unwrap().unwrap();
        for expected in [LinkAttribute::GsoMaxSize(65_536), LinkAttribute::GroMaxSize(65_536)] {
            assert!(link.attributes.contains(&expected), "{expected:?}");
        }
        netif::pin_gso("b").await.unwrap();
        assert!(netif::pin_gso("nosuch").await.is_err());
    });
}

#[test]
fn changes_are_told_as_they_happen() {
    in_namespace("changes_are_told_as_they_happen", async || {
        let mut events = netif::watch().unwrap();
        let mut told = async |wanted: &dyn Fn(&Event) -> bool| {
            let search = async { while !wanted(&events.recv().await.unwrap()) {} };
            tokio::time::timeout(PATIENCE, search).await.expect("not told");
        };
        let is = |is_up, is_gone| move |event: &Event| matches!(event, Event::Link { name, up, gone, .. } if name == "t0" && *up == is_up && *gone == is_gone);
        let tap = Tap::open("t0", false, 1).unwrap();
        told(&is(false, false)).await;
        netif::set_up("t0", true).await.unwrap();
        told(&is(true, false)).await;
        netif::apply("t0", &change(&["10.0.0.1/24"])).await.unwrap();
        told(&|event| *event == Event::Addresses).await;
        told(&|event| *event == Event::Routes).await;
        netif::set_up("t0", false).await.unwrap();
        told(&is(false, false)).await;
        drop(tap);
        told(&is(false, true)).await;
    });
}
