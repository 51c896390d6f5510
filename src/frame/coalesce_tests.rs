//! What goes together, what does not, and that splitting gives everything back.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::recipe::*;
use super::*;

/// A frame as it came out: where to, how many it was made of, what it is in all.
type Out = (u32, usize, Vec<u8>, Option<Unfinished>);

/// Offers `frames` with a few bytes between them, as they stand in a read.
fn coalesce(frames: &[(u32, Vec<u8>)]) -> Vec<Out> {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for (_, frame) in frames {
        buffer.extend([0xee; 4]);
        ranges.push(buffer.len()..buffer.len() + frame.len());
        buffer.extend(frame);
    }
    let mut out: Vec<Out> = Vec::new();
    let mut coalescer = Coalescer::new();
    for ((to, frame), range) in frames.iter().zip(ranges) {
        let mut emit = |merged: Merged<'_>| out.push(taken(merged));
        if !coalescer.offer(&mut buffer, range.clone(), *to, &mut emit) {
            assert_eq!(buffer[range], frame[..], "not kept, but changed");
            out.push((*to, 1, frame.clone(), None));
        }
    }
    coalescer.flush(&mut buffer, &mut |merged| out.push(taken(merged)));
    coalescer.flush(&mut buffer, &mut |_| panic!("something was left"));
    out
}

fn taken(merged: Merged<'_>) -> Out {
    let bytes: Vec<u8> = merged.parts().flatten().copied().collect();
    assert_eq!(merged.len, bytes.len());
    assert_eq!(merged.parts().len(), merged.frames);
    assert_eq!(merged.unfinished.is_some(), merged.frames > 1);
    (merged.to, merged.frames, bytes, merged.unfinished)
}

/// What came out, split again.
fn split(out: &[Out]) -> Vec<(u32, Vec<u8>)> {
    let mut frames = Vec::new();
    for (to, count, bytes, unfinished) in out {
        let Some(unfinished) = unfinished else {
            frames.push((*to, bytes.clone()));
            continue;
        };
        // A peer or a kernel finds the same in it, and takes it whole.
        let header = unfinished.header(0);
        let found = Unfinished::from_peer(&bytes[..bytes.len().min(512)], bytes.len(), &header);
        assert_eq!(found, Ok(super::super::offload::Arrived::Unfinished(*unfinished)));
        let pieces = pieces(bytes, unfinished);
        assert_eq!(pieces.len(), *count);
        frames.extend(pieces.into_iter().map(|piece| (*to, piece)));
    }
    frames
}

/// The frames of a stream of `count` segments of 300 bytes, the last with PSH.
fn stream(recipe: &Recipe, count: usize) -> Vec<Vec<u8>> {
    let payload = (0..count * 300).map(|i| (i * 7 + i / 256) as u8).collect();
    Recipe { payload, size: 300, flags: recipe.flags | tcp::PSH, ..recipe.clone() }.split()
}

fn recipe() -> Recipe {
    Recipe { tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], ..Recipe::tcp4() }
}

/// To egress 1, all of them.
fn one_way(frames: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
    frames.iter().map(|frame| (1, frame.clone())).collect()
}

fn counts(out: &[Out]) -> Vec<usize> {
    out.iter().map(|(_, frames, ..)| *frames).collect()
}

/// Makes the IPv4 header's and TCP's checksums right again.
fn correct(frame: &mut [u8], l3: usize) {
    let l4 = l3 + 20;
    put(frame, l3 + 10, 0);
    let sum = checksum(&frame[l3..l4]);
    put(frame, l3 + 10, sum);
    put(frame, l4 + 16, 0);
    let addresses = frame[l3 + 12..l4].to_vec();
    let sum = !l4_sum(frame, &addresses, l4, 6);
    put(frame, l4 + 16, sum);
}

#[test]
fn segments_that_follow_on_one_another_become_one() {
    let v6 = Recipe { v6: true, addresses: (1..33).collect(), ..recipe() };
    let tagged = Recipe { tags: vec![[0x88, 0xa8, 0, 9], [0x81, 0, 0, 5]], ..recipe() };
    let wrapping = Recipe { seq: u32::MAX - 400, id: 0xfffe, flags: 0x90, ..recipe() };
    for recipe in [recipe(), v6, tagged, wrapping] {
        let frames = one_way(&stream(&recipe, 7));
        let out = coalesce(&frames);
        assert_eq!(counts(&out), [7]);
        assert_eq!(split(&out), frames);
        let made = Recipe { payload: vec![0; 2100], size: 300, ..recipe.clone() }.make();
        let bytes = &out[0].2;
        // But for flags and checksum as the kernel would have made it.
        assert_eq!(bytes[..made.l4 + 13], made.frame[..made.l4 + 13]);
        assert_eq!(bytes[made.l4 + 13], recipe.flags | tcp::PSH);
    }
}

#[test]
fn flows_are_told_apart_and_kept_in_order() {
    let streams: Vec<_> = (0..3u8)
        .map(|i| stream(&Recipe { addresses: vec![10, 0, 0, i, 10, 0, 0, 9], ..recipe() }, 5))
        .collect();
    let frames: Vec<_> =
        (0..5).flat_map(|i| streams.iter().map(move |stream| (1, stream[i].clone()))).collect();
    assert_eq!(counts(&coalesce(&frames)), [5, 5, 5]);
    // The same flow on its way to two egresses.
    let twice: Vec<_> =
        streams[0].iter().flat_map(|frame| [(1, frame.clone()), (2, frame.clone())]).collect();
    let out = coalesce(&twice);
    assert_eq!(out.iter().map(|(to, frames, ..)| (*to, *frames)).collect::<Vec<_>>(), [(1, 5), (2, 5)]);
}

#[test]
fn the_ninth_flow_evicts_the_oldest() {
    let first = |i: u8| stream(&Recipe { addresses: vec![10, 0, 0, i, 10, 0, 1, 1], ..recipe() }, 3);
    let mut frames: Vec<_> = (0..9).map(|i| (u32::from(i), first(i)[0].clone())).collect();
    // The evicted one begins again, the second oldest goes; the last one goes on.
    frames.push((0, first(0)[1].clone()));
    frames.push((8, first(8)[1].clone()));
    let out = coalesce(&frames);
    let order: Vec<_> = out.iter().map(|(to, frames, ..)| (*to, *frames)).collect();
    assert_eq!(order[..2], [(0, 1), (1, 1)]);
    assert!(order.contains(&(8, 2)) && order.contains(&(0, 1)));
    assert_eq!(split(&out).len(), 11);
}

#[test]
fn a_super_frame_ends_where_it_must() {
    // One by one: no super-frame holds all of it.
    let long = |recipe: Recipe, count: usize, size: u16| -> Vec<(u32, Vec<u8>)> {
        let at = |i: usize| Recipe {
            payload: vec![5; size.into()],
            size,
            seq: (i * usize::from(size)) as u32,
            id: i as u16,
            ..recipe.clone()
        };
        one_way(&(0..count).flat_map(|i| at(i).split()).collect::<Vec<_>>())
    };
    let v6 = Recipe { v6: true, addresses: vec![1; 32], ..recipe() };
    // 128 segments; 65,535 bytes of IPv4, or behind the header of IPv6.
    assert_eq!(counts(&coalesce(&long(recipe(), 130, 400))), [128, 2]);
    assert_eq!(counts(&coalesce(&long(recipe(), 50, 1448))), [45, 5]);
    assert_eq!(counts(&coalesce(&long(recipe(), 4, 32_741))), [2, 2]);
    assert_eq!(counts(&coalesce(&long(recipe(), 2, 32_742))), [1, 1]);
    assert_eq!(counts(&coalesce(&long(v6.clone(), 4, 32_751))), [2, 2]);
    assert_eq!(counts(&coalesce(&long(v6, 2, 32_752))), [1, 1]);
    // PSH and FIN in the middle of what follows on one another.
    let twice =
        [stream(&recipe(), 3), stream(&Recipe { seq: 901, id: 4, flags: 0x11, ..recipe() }, 3)].concat();
    let out = coalesce(&one_way(&twice));
    assert_eq!(counts(&out), [3, 3]);
    assert_eq!(split(&out), one_way(&twice));
    // A short one.
    let short = Recipe { payload: vec![5; 700], size: 300, ..recipe() }.split();
    let more = Recipe { payload: vec![5; 600], size: 300, seq: 701, id: 4, ..recipe() }.split();
    assert_eq!(counts(&coalesce(&one_way(&[short, more].concat()))), [3, 2]);
    // Small ones are sent as they are.
    let small = Recipe { payload: vec![5; 2550], size: 255, ..recipe() }.split();
    assert_eq!(counts(&coalesce(&one_way(&small))), [1; 10]);
}

/// The third of five is changed, and correct again: it begins anew, or passes by itself.
#[test]
fn what_differs_from_the_first_does_not_go_with_it() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, &[usize], Change); 20] = [
        ("nothing", &[5], |_| ()),
        ("type of service", &[2, 1, 2], |f| f[15] = 4),
        ("ECN, congestion experienced", &[2, 1, 2], |f| f[15] = 3),
        ("IPv4 ID", &[2, 1, 2], |f| put(f, 18, 9)),
        ("DF", &[2, 1, 2], |f| f[20] = 0),
        ("a fragment", &[2, 1, 2], |f| f[20] = 0x20),
        ("a later fragment", &[2, 1, 2], |f| f[21] = 1),
        ("time to live", &[2, 1, 2], |f| f[22] -= 1),
        ("sequence number", &[2, 1, 2], |f| f[41] ^= 1),
        ("acknowledgement", &[2, 1, 2], |f| f[45] ^= 1),
        ("a reserved bit", &[2, 1, 2], |f| f[46] |= 1),
        ("SYN", &[2, 1, 2], |f| f[47] |= tcp::SYN),
        ("RST", &[2, 1, 2], |f| f[47] |= tcp::RST),
        ("URG", &[2, 1, 2], |f| f[47] |= tcp::URG),
        ("ECE", &[2, 1, 2], |f| f[47] |= 0x40),
        ("CWR, which is only the first's", &[2, 3], |f| f[47] |= tcp::CWR),
        ("window", &[2, 1, 2], |f| f[48] ^= 1),
        ("urgent pointer", &[2, 1, 2], |f| f[53] = 1),
        ("timestamp", &[2, 1, 2], |f| f[61] ^= 1),
        ("no payload", &[2, 1, 2], |f| {
            f.truncate(66);
            put(f, 16, 52);
        }),
    ];
    let of_others: [(&str, Change); 5] = [
        ("MAC address", |f| f[5] ^= 1),
        ("source address", |f| f[29] ^= 1),
        ("destination address", |f| f[33] ^= 1),
        ("source port", |f| f[35] ^= 1),
        ("destination port", |f| f[37] ^= 1),
    ];
    for (what, expected, change) in cases {
        let mut frames = stream(&recipe(), 5);
        change(&mut frames[2]);
        correct(&mut frames[2], 14);
        let out = coalesce(&one_way(&frames));
        assert_eq!(counts(&out), expected, "{what}");
        assert_eq!(split(&out), one_way(&frames), "{what}");
    }
    for (what, change) in of_others {
        let mut frames = stream(&recipe(), 5);
        change(&mut frames[2]);
        correct(&mut frames[2], 14);
        let out = coalesce(&one_way(&frames));
        let mut counts = counts(&out);
        counts.sort();
        assert_eq!(counts, [1, 2, 2], "{what}");
    }
}

/// What nobody has verified is not vouched for by a new checksum.
#[test]
fn what_is_wrong_passes_as_it_came() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: [(&str, Spoil); 8] = [
        ("a payload bit", |f| f[100] ^= 1),
        ("TCP's checksum", |f| f[50] ^= 1),
        ("the IPv4 header's checksum", |f| f[24] ^= 1),
        ("padding", |f| f.push(0)),
        ("a missing byte", |f| f.truncate(f.len() - 1)),
        ("total length", |f| f[17] ^= 1),
        ("data offset", |f| f[46] = 0x40),
        ("data offset beyond the frame", |f| {
            f.truncate(80);
            f[46] = 0xf0;
        }),
    ];
    for (what, spoil) in cases {
        let mut frames = stream(&recipe(), 5);
        spoil(&mut frames[2]);
        let out = coalesce(&one_way(&frames));
        assert_eq!(counts(&out), [2, 1, 2], "{what}");
        assert_eq!(split(&out), one_way(&frames), "{what}");
    }
}

/// Options that the header promises are not looked for behind the frame, where the read may end.
#[test]
fn a_frame_that_ends_before_its_options_passes_as_it_came() {
    let options = Recipe { tcp_options: vec![1; 40], ..Recipe::tcp4() };
    for len in 54..94 {
        let mut frames = stream(&options, 3);
        frames[2].truncate(len);
        let out = coalesce(&one_way(&frames));
        assert_eq!(counts(&out), [2, 1], "{len}");
        assert_eq!(split(&out), one_way(&frames), "{len}");
    }
}

/// 0xffff is as right as 0 in a checksum field, but splitting would write 0.
#[test]
fn an_unusual_checksum_passes_as_it_came() {
    let mut frames = stream(&recipe(), 5);
    let field = 14 + 20 + 16;
    // Its own complement in two bytes of payload.
    put(&mut frames[2], 100, 0);
    put(&mut frames[2], field, 0);
    let rest = l4_sum(&frames[2], &recipe().addresses, 34, 6);
    put(&mut frames[2], 100, !rest);
    assert_eq!(counts(&coalesce(&one_way(&frames))), [5]);
    put(&mut frames[2], field, 0xffff);
    let out = coalesce(&one_way(&frames));
    assert_eq!(counts(&out), [2, 1, 2]);
    assert_eq!(split(&out), one_way(&frames));
}

/// Its flow cannot be told from it, so nothing may be left that it would overtake.
#[test]
fn an_odd_frame_goes_behind_everything_kept() {
    for change in [|f: &mut Vec<u8>| f[14] = 0x46, |f: &mut Vec<u8>| put(f, 20, 0x2005)] {
        let mut frames = stream(&recipe(), 3);
        change(&mut frames[2]);
        let out = coalesce(&one_way(&frames));
        assert_eq!(counts(&out), [2, 1]);
        assert_eq!(split(&out), one_way(&frames));
    }
    // But what is not TCP does not disturb.
    let mut frames = stream(&recipe(), 3);
    frames.insert(1, Recipe { udp: true, ..recipe() }.make().frame);
    frames.insert(2, vec![0xff; 42]);
    assert_eq!(counts(&coalesce(&one_way(&frames))), [1, 1, 3]);
}

/// What happens to the next frame of a stream.
#[derive(Clone, Debug)]
enum Step {
    Send,
    Twice,
    Lose,
    /// Behind the next one.
    Later,
    /// One byte is another.
    Flip(prop::sample::Index, u8),
    Cut(usize),
    Pad(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Send),
        1 => Just(Step::Twice),
        1 => Just(Step::Lose),
        1 => Just(Step::Later),
        2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Step::Flip(at, to)),
        1 => (1usize..60).prop_map(Step::Cut),
        1 => (1usize..9).prop_map(Step::Pad),
    ]
}

/// Egress, addresses and ports: whose order counts.
fn key(to: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    let found = Segment::find(frame, 0);
    let Found::Segment(Segment { l3, l4, v6, .. }) = found else { return (to, vec![]) };
    let addresses = l3 + if v6 { 8 } else { 12 };
    (to, [&frame[..l3], &frame[addresses..l4 + 4]].concat())
}

fn by_flow(frames: &[(u32, Vec<u8>)]) -> HashMap<(u32, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for (to, frame) in frames {
        flows.entry(key(*to, frame)).or_default().push(frame.clone());
    }
    flows
}

proptest! {
    /// Streams of up to ten flows, mixed and mistreated: each flow's frames come out as they went in.
    #[test]
    fn splitting_gives_back_what_went_in(
        flows in prop::collection::vec((recipes(), 0u32..3, 200u16..700), 1..10),
        order in prop::collection::vec((any::<prop::sample::Index>(), step()), 0..80),
    ) {
        let mut streams: Vec<_> = flows
            .into_iter()
            .enumerate()
            .map(|(i, (mut recipe, to, size))| {
                recipe.udp = false;
                recipe.flags &= 0x99;
                recipe.extensions.clear();
                recipe.ip_options.clear();
                recipe.addresses[0] = i as u8;
                (to, Recipe { size, ..recipe }.split().into_iter())
            })
            .collect();
        let (mut frames, mut later) = (Vec::new(), None);
        for (flow, step) in order {
            let (to, stream) = flow.get_mut(&mut streams);
            let to = *to;
            let Some(mut frame) = stream.next() else { continue };
            match step {
                Step::Send => (),
                Step::Twice => frames.push((to, frame.clone())),
                Step::Lose => continue,
                Step::Later => {
                    frames.extend(later.replace((to, frame)));
                    continue;
                }
                Step::Flip(index, value) => *index.get_mut(&mut frame) = value,
                Step::Cut(bytes) => frame.truncate(frame.len() - bytes.min(frame.len() - 14)),
                Step::Pad(bytes) => frame.resize(frame.len() + bytes, 0),
            }
            frames.push((to, frame));
            frames.extend(later.take());
        }
        let out = split(&coalesce(&frames));
        prop_assert_eq!(by_flow(&out), by_flow(&frames));
    }

    #[test]
    fn noise_passes(frames in prop::collection::vec((0u32..2, prop::collection::vec(any::<u8>(), 0..90)), 0..20)) {
        prop_assert_eq!(split(&coalesce(&frames)), frames);
    }
}
