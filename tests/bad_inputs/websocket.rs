//! Messages that break the protocol, or only its manners: 15 to 29 of the list.

use std::time::{Duration, Instant};

use crate::lab::SOON;
use crate::lab::frames::{BROADCAST, frame, mac, payload};
use crate::lab::switch::TwoHosts;
use crate::lab::ws::{self, BINARY, CONTINUATION, FIN, PING, PONG, TEXT};
use crate::target::Target;

#[test]
fn bad_15_to_21_25_28_broken_messages_close_the_link() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let good = frame(BROADCAST, mac(1), &[], &payload(40));
    let mut unmasked = vec![FIN | BINARY, good.len() as u8];
    unmasked.extend(&good);
    target.closes(&[1002], &unmasked); // 15
    for first in
        [FIN | 0x40 | BINARY, FIN | 0x20 | BINARY, FIN | 0x10 | BINARY, FIN | 3, FIN | 7, FIN | 11, FIN | 15]
    {
        target.closes(&[1002], &ws::frame(first, &good)); // 16
    }
    for len in [u64::MAX >> 1, 1 << 63, u64::MAX] {
        let mut huge = vec![FIN | BINARY, 0x80 | 127];
        huge.extend(len.to_be_bytes());
        huge.extend([1, 2, 3, 4]);
        target.closes(&[1009, 1002], &huge); // 17
    }
    target.closes(&[1002], &[&[FIN | BINARY, 0x80 | 126, 0, 60, 0, 0, 0, 0][..], &[0; 60]].concat()); // 18
    target.closes(
        &[1002],
        &[&[FIN | BINARY, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0][..], &[0; 60]].concat(),
    );
    target.closes(&[1002], &ws::frame(FIN | PING, &[0; 126])); // 19
    target.closes(&[1002], &ws::frame(PING, b"x"));
    let mut endless = ws::frame(BINARY, b"x"); // 20
    (0..1100).for_each(|_| endless.extend(ws::frame(CONTINUATION, b"")));
    target.closes(&[1009], &endless);
    let long = ws::frame(CONTINUATION, &[2; 10_000]).repeat(7);
    target.closes(&[1009], &[ws::frame(BINARY, &good), long].concat());
    target.closes(&[1002], &ws::frame(FIN | CONTINUATION, &good)); // 21
    target.closes(&[1002], &[ws::frame(BINARY, &good), ws::frame(FIN | BINARY, &good)].concat());
    for code in [1005_u16, 1006, 999, 0] {
        target.closes(&[1002], &ws::frame(FIN | ws::CLOSE, &code.to_be_bytes())); // 25
    }
    target.closes(&[1002], &ws::frame(FIN | ws::CLOSE, b"x"));
    target.closes(&[1007, 1002], &ws::frame(FIN | ws::CLOSE, b"\x03\xe8\xff\xfe"));
    target.closes(&[1009], &ws::frame(FIN | BINARY, &vec![2; 65_598])); // 28
    target.lives();
}

#[test]
fn bad_23_a_ping_flood_is_answered_a_while_then_closed() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    let burst: Vec<u8> = (0..50).flat_map(|_| ws::frame(FIN | PING, b"flood")).collect();
    let start = Instant::now();
    let mut code = None;
    while code.is_none() && start.elapsed() < Duration::from_secs(15) {
        peer.send_raw(&burst);
        while let Some((opcode, payload)) = peer.next(Duration::from_millis(50)) {
            if opcode == ws::CLOSE {
                code = payload.first_chunk().copied().map(u16::from_be_bytes);
            }
        }
    }
    assert_eq!(code, Some(1008));
    target.lives();
}

#[test]
fn bad_24_26_27_29_harmless_oddities_change_nothing() {
    let hosts = TwoHosts::new();
    let mut target = Target::new(&hosts, &[]);
    let mut peer = target.open();
    peer.send(PONG, b"nobody asked"); // 24
    peer.send(TEXT, b"hello"); // 27
    peer.send(PING, b"x");
    assert_eq!(peer.wait(PONG, SOON).as_deref(), Some(&b"x"[..]));
    assert_eq!(target.switch.drops("text"), 1);
    let sent = frame(BROADCAST, mac(1), &[], &payload(300)); // 29
    let bytes = ws::frame(FIN | BINARY, &sent);
    for at in 0..10 {
        peer.send_raw(&bytes[..at]);
        std::thread::sleep(Duration::from_millis(20));
        peer.send_raw(&bytes[at..]);
        assert!(target.wire.receives(&sent, SOON), "split at {at}");
    }
    let late = frame(BROADCAST, mac(1), &[], &payload(60)); // 26
    peer.send_raw(
        &[ws::frame(FIN | ws::CLOSE, &1000_u16.to_be_bytes()), ws::frame(FIN | BINARY, &late)].concat(),
    );
    assert!(peer.ends(SOON));
    assert!(!target.wire.receives(&late, Duration::from_millis(200)));
    target.lives();
}
