//! What work takes, counted in allocations of the thread that does it: nothing for what a peer's header promises, nothing
//! for a frame on its way, and for a port what it takes alone, however many others come and go. A program of its own, for
//! its allocator is one that counts.

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use etherws::frame::eth::Outgoing;
use etherws::frame::stream::{self, TooLong};
use etherws::frame::{Frame, MacAddr};
use etherws::port::ports::SwitchSettings;
use etherws::port::{PortKind, PortRef, PortSpec, Ports};
use etherws::switch::guard::Policer;
use etherws::switch::{Fdb, Now, Port, Slot, Switch, Verdict, VlanRule};
use etherws::ws::codec::{Decoder, Event, Role, Step, encode};
use etherws::ws::header::Opcode;
use futures_util::future::join_all;

const LIMIT: usize = 65_597;
const KEY: [u8; 4] = [1, 2, 3, 4];

/// A message's beginning that says `len` in eight bytes or fewer, with four bytes of its payload.
fn begins(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..126 => bytes.push(0x80 | len as u8),
        126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend([KEY, KEY].concat());
    bytes
}

#[test]
fn bad_17_nothing_is_allocated_for_what_a_header_says() {
    let lengths = [5, 125, 126, 65_535, 65_536, LIMIT as u64, LIMIT as u64 + 1, 1 << 20, 1 << 31, 1 << 32];
    let lengths = lengths.into_iter().chain([1 << 62, u64::MAX >> 1, 1 << 63, u64::MAX]);
    // Whole messages and first fragments of bytes and text; then what follows a fragment.
    let firsts = [0x82, 0x02, 0x81, 0x01, 0x80, 0x00];
    for (first, len) in firsts.iter().flat_map(|first| lengths.clone().map(|len| (*first, len))) {
        for text in [false, true] {
            let decoder = Decoder::new(Role::Server, LIMIT);
            let mut decoder = if text { decoder.with_text() } else { decoder };
            if first & 0x0f == 0 {
                let mut fragment = [1, 0x81, 0, 0, 0, 0, b'x'];
                assert!(matches!(decoder.next(&mut fragment), Ok(Step::Used(7, None))));
            }
            let mut bytes = begins(first, len);
            let mut refused = false;
            let took = measure(|| match decoder.next(&mut bytes) {
                Ok(step) => assert!(matches!(step, Step::More)),
                Err(_) => refused = true,
            });
            assert_eq!(took.count_total, 0, "{first:#x}, {len}: {took:?}");
            let open = usize::from(first & 0x0f == 0);
            assert_eq!(refused, len > (LIMIT - open) as u64, "{first:#x}, {len}");
        }
    }
    for len in [5, LIMIT as u32, LIMIT as u32 + 1, 1 << 31, u32::MAX] {
        let bytes = [&len.to_be_bytes()[..], b"four"].concat();
        let mut told = Ok(None);
        assert_eq!(measure(|| told = stream::first(&bytes)).count_total, 0, "{len}");
        assert_eq!(told, if len as usize > LIMIT { Err(TooLong(len)) } else { Ok(None) });
    }
}

/// Of a message in fragments there is what has arrived, and the room that a vector takes ahead.
#[test]
fn bad_20_fragments_take_what_has_arrived() {
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let mut arrived = 0;
    let mut held = AllocationInfo::default();
    for number in 0..1_000_u32 {
        let mut fragment = begins(if number == 0 { 0x02 } else { 0x00 }, 60);
        fragment.extend([0; 56]);
        held += measure(|| {
            assert!(matches!(decoder.next(&mut fragment), Ok(Step::Used(66, None))));
        });
        arrived += 60;
        assert!(held.bytes_current <= 2 * arrived.max(64), "{} bytes for {arrived}", held.bytes_current);
    }
}

/// A message in, its frame judged, a message out: nothing is allocated once a thread has begun.
#[test]
fn a_frame_on_its_way_takes_no_memory() {
    let switch = Switch::new(Fdb::new(64, 300, [1, 2]));
    for slot in 0..3 {
        switch.put(port(slot));
    }
    let (a, b) = (MacAddr::new([2, 0, 0, 0, 0, 1]), MacAddr::new([2, 0, 0, 0, 0, 2]));
    switch.fdb.learn(0, b, Slot(1), 0);
    let frame = |dst: MacAddr| [&dst.octets()[..], &a.octets(), &[8, 0], &[0; 500]].concat();
    let mut out = Vec::with_capacity(8 << 10);
    let mut decoder = Decoder::new(Role::Server, LIMIT);
    let mut passes = |dst: MacAddr, second: u64| {
        let mut bytes = Vec::new();
        encode(&mut bytes, Opcode::Binary, &[frame(dst)[..].into()], Some(KEY), &mut ());
        out.clear();
        let mut copies = 0;
        let took = measure(|| {
            let table = switch.table().load();
            let Ok(Step::Used(_, Some(Event::Binary(mut payload)))) = decoder.next(&mut bytes) else {
                panic!("a message")
            };
            payload.peek(26);
            let ingress = table.get(Slot(0)).expect("a port");
            let judged = Frame::checked(payload.raw()).expect("a frame");
            let now = Now(Duration::from_secs(second));
            let verdict = switch.forward(&table, ingress, judged, 1, now, &mut ());
            let mut send = |retag| {
                assert!(Outgoing::new(judged, retag).len() > 500);
                encode(&mut out, Opcode::Binary, &payload.pieces(), None, &mut ());
                copies += 1;
            };
            match verdict {
                Verdict::Unicast(_, retag) => send(retag),
                Verdict::Flood(flood) => table.flood(flood, false).for_each(|(_, retag)| send(retag)),
                Verdict::Drop(reason) => panic!("{reason:?}"),
            }
        });
        (took.count_total, copies)
    };
    passes(b, 0);
    for second in 1..50 {
        assert_eq!(passes(b, second), (0, 1), "to one");
        assert_eq!(passes(MacAddr::BROADCAST, second), (0, 2), "to all");
    }
}

fn port(slot: u32) -> Port<()> {
    Port {
        slot: Slot(slot),
        number: slot + 1,
        vlan: VlanRule::Transparent,
        isolated: false,
        bpdu: false,
        macs: Vec::new(),
        remote: true,
        rate: None,
        ethertypes: Vec::new(),
        storm: None,
        heard: Arc::new(Policer::of_frames(1)),
        asked: Arc::new(Policer::of_frames(1)),
        max_macs: u32::MAX,
        gate: Default::default(),
        counters: Default::default(),
        egress: (),
    }
}

/// A TAP that is made and deleted takes what it takes alone, beside a hundred others and beside a hundred that race.
#[test]
fn bad_56_racing_ports_take_what_they_take_alone() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, for a network namespace");
    // Or each TAP would have something to say.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("no IPv6");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let settings = SwitchSettings { fdb_limit: 64, ..SwitchSettings::default() };
    let ports = runtime.block_on(async { Ports::start(settings) }).expect("ports");
    let add = async |number: u8| {
        let address = vec![format!("10.9.{number}.1/24").parse().expect("an address")];
        let spec = PortSpec { address, ..PortSpec::new(PortKind::Tap, format!("t{number}")) };
        PortRef::Number(ports.add(spec).await.expect("a port").port)
    };
    let delete = async |port: PortRef| drop(ports.delete(&port).await.expect("its end"));
    // Of a few, for what is done every second may fall into one of them.
    let one = || {
        let took = || measure(|| runtime.block_on(async { delete(add(200).await).await })).count_total;
        (0..10).map(|_| took()).min().expect("ten")
    };
    let race = |count: u8| {
        let all = (0..count).map(async |number| delete(add(number).await).await);
        let took = measure(|| drop(runtime.block_on(join_all(all)))).count_total;
        assert!(ports.list().is_empty());
        took / u64::from(count)
    };
    let alone = one();
    // What the kernel tells of each while others come and go is heard within the race, so it is compared with a smaller one.
    let [few, racing] = [race(10), race(100)];
    runtime.block_on(join_all((0..100).map(add)));
    let beside = one();
    println!(
        "allocations of one: {alone} alone, {beside} beside a hundred, {few} of ten that race, {racing} of a hundred"
    );
    assert!(beside < alone * 5 / 4, "{alone} allocations alone, {beside} beside a hundred");
    assert!(racing < few * 3 / 2, "{few} allocations of ten that race, {racing} of a hundred");
}
