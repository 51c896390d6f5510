//! TAPs of several queues.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;

use etherws::frame::{MAX_FRAME, MacAddr};
use etherws::port::netif;
use etherws::port::spec::InterfaceChange;
use etherws::sys::OpenError;
use etherws::sys::tun::Tap;

use super::offload::ones_sum;
use super::{PATIENCE, in_namespace};

#[test]
fn a_tap_of_several_queues_deals_out_flows_and_is_handed_over() {
    in_namespace("a_tap_of_several_queues_deals_out_flows_and_is_handed_over", async || {
        let mut tap = Tap::open("t0", false, 16).unwrap();
        assert_eq!(tap.queues(), 16);
        netif::bound_queues("t0").await.unwrap();
        let change = InterfaceChange { address: vec!["10.9.0.1/24".parse().unwrap()], ..Default::default() };
        netif::apply("t0", &change).await.unwrap();
        netif::set_up("t0", true).await.unwrap();
        // A second process would get a share of the frames.
        let busy = Tap::open("t0", false, 16).unwrap_err();
        assert!(matches!(&busy, OpenError::Invalid(text) if text.contains("several queues")), "{busy}");

        // The station that all flows go to answers for itself, so the kernel knows both ways of a flow.
        let station = MacAddr::new([2, 0, 0, 0, 0, 9]);
        let ours = netif::status("t0").await.unwrap().mac;
        run(&["ip", "neigh", "add", "10.9.0.2", "lladdr", &station.to_string(), "dev", "t0"]);
        let flows = |tap: &Tap| {
            let mut of = vec![Vec::new(); tap.queues()];
            for n in 0..FLOWS {
                let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
                let port = socket.local_addr().unwrap().port();
                for round in 0..3 {
                    socket.send_to(&[n, round], "10.9.0.2:9").unwrap();
                    let answer = udp((station, [10, 9, 0, 2], 9), (ours, [10, 9, 0, 1], port), &[n, round]);
                    tap.write(&[IoSlice::new(&answer)]).unwrap();
                    let mut read = [0; 2];
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    assert_eq!((socket.recv(&mut read).unwrap(), read), (2, [n, round]));
                }
            }
            let mut buf = vec![0; MAX_FRAME];
            for (queue, of) in of.iter_mut().enumerate() {
                while let Ok(len) = tap.read(queue, &mut buf) {
                    if buf[..6] == station.octets() {
                        of.push((buf[len - 2], buf[len - 1]));
                    }
                }
            }
            of
        };
        for handed_over in [false, true] {
            let of = flows(&tap);
            let all: usize = of.iter().map(Vec::len).sum();
            assert_eq!(all, usize::from(FLOWS) * 3, "{of:?}");
            assert!(of.iter().filter(|frames| !frames.is_empty()).count() > 4, "all in one: {of:?}");
            for n in 0..FLOWS {
                let whole = of
                    .iter()
                    .any(|of| of.iter().filter(|(flow, _)| *flow == n).map(|(_, round)| *round).eq(0..3));
                assert!(whole, "flow {n} is in several queues, or out of order: {of:?}");
            }
            if !handed_over {
                let fd = tap.as_fd().try_clone_to_owned().unwrap();
                drop(tap);
                tap = Tap::adopt(fd, "t0", false, 16).unwrap();
                assert_eq!(tap.queues(), 16);
            }
        }
        // Elsewhere, it is not made anew under its name to be read from.
        let other = format!("queues-{}", std::process::id());
        let fd = tap.as_fd().try_clone_to_owned().unwrap();
        drop(tap);
        run(&["ip", "netns", "add", &other]);
        run(&["ip", "link", "set", "t0", "netns", &other]);
        let elsewhere = Tap::adopt(fd, "t0", false, 16);
        run(&["ip", "netns", "del", &other]);
        let elsewhere = elsewhere.unwrap_err().to_string();
        assert!(elsewhere.contains("another network namespace"), "{elsewhere}");
        assert_eq!(netif::exists("t0").await, Ok(false));
    });
}

fn run(command: &[&str]) {
    assert!(Command::new(command[0]).args(&command[1..]).status().unwrap().success(), "{command:?}");
}

/// Enough that 16 queues do not get all of them into four by chance (one in 10^8).
const FLOWS: u8 = 32;

/// A UDP datagram, its checksum left out (RFC 768), from a station, its address and port to another's.
fn udp(from: (MacAddr, [u8; 4], u16), to: (MacAddr, [u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(len.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.1);
    ip.extend(to.1);
    let sum = !ones_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [to.0.octets(), from.0.octets()].concat();
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend(from.2.to_be_bytes());
    frame.extend(to.2.to_be_bytes());
    frame.extend((len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
