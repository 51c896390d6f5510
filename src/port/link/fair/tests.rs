use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::ws::header::Header;

/// A frame of UDP from `port`, with a number in it.
fn frame(port: u16, len: usize, number: u32) -> Vec<u8> {
    let mut frame = vec![0; len.max(60)];
    frame[12..14].copy_from_slice(&[0x08, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
    frame[23] = 17;
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[42..46].copy_from_slice(&number.to_be_bytes());
    let end = frame.len();
    frame[end - 4..].copy_from_slice(&number.to_be_bytes());
    frame
}

fn push(queue: &mut FairQueue, frame: &[u8], now: u64) {
    let label = Label { frames: (1, frame.len() as u32), stamp: 0 };
    queue.push((0, None), &[frame.into()], Some([7, 1, 9, 3]), label, now, &mut ());
}

/// All that is leaving, written in one or two pieces, and taken apart again.
fn written(queue: &mut FairQueue) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for cut in [3, usize::MAX] {
        let mut slices = [IoSlice::new(&[]); 80];
        let count = queue.leaving(&mut slices);
        let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter()).copied().collect();
        let taken = all.len().min(cut);
        bytes.extend_from_slice(&all[..taken]);
        queue.advance(taken, |_| ());
    }
    let mut out = Vec::new();
    let mut rest = &bytes[..];
    while let Some(header) = Header::parse(rest).unwrap() {
        let end = header.len + header.payload as usize;
        let mut payload = rest[header.len..end].to_vec();
        mask(&mut payload, header.key.unwrap_or_default(), 0);
        out.push(payload);
        rest = &rest[end..];
    }
    assert!(rest.is_empty());
    out
}

fn pop(queue: &mut FairQueue, now: u64) -> Option<Vec<u8>> {
    queue.pop(now)?;
    let mut out = written(queue);
    assert_eq!((out.len(), queue.count_leaving()), (1, 0));
    out.pop()
}

fn port(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[34], frame[35]])
}

const MS: u64 = 1_000_000;

#[test]
fn a_flow_that_has_just_begun_passes_one_that_fills_its_queue() {
    let mut queue = FairQueue::default();
    for number in 0..500 {
        push(&mut queue, &frame(1, 1514, number), 0);
    }
    pop(&mut queue, 0);
    push(&mut queue, &frame(2, 98, 0), 0);
    let first: Vec<u16> = (0..2).map(|_| port(&pop(&mut queue, 0).unwrap())).collect();
    assert!(first.contains(&2), "{first:?}");
}

#[test]
fn flows_share_by_bytes_whatever_their_frames() {
    let mut queue = FairQueue::default();
    let mut sent = HashMap::new();
    for (from, len, count) in [(1, 60_000, 15), (2, 1514, 500), (3, 200, 300)] {
        (0..count).for_each(|number| push(&mut queue, &frame(from, len, number), 0));
    }
    for _ in 0..400 {
        let frame = pop(&mut queue, 0).unwrap();
        *sent.entry(port(&frame)).or_insert(0) += frame.len();
    }
    // The third has said all; the others differ by less than the longest frame.
    assert_eq!(sent.get(&3), Some(&(300 * 200)));
    assert!(sent[&1].abs_diff(sent[&2]) < 62_000 + 1514, "{sent:?}");
}

#[test]
fn bounded_in_frames_and_memory_and_the_longest_flow_pays() {
    for (len, most) in [(60, MAX_MESSAGES), (1514, MAX_MESSAGES), (65_000, MAX_CHUNKS / 32 + 10)] {
        let mut queue = FairQueue::default();
        (0..10).for_each(|number| push(&mut queue, &frame(7, 60, number), 0));
        for number in 0..3_000 {
            push(&mut queue, &frame(1, len, number), 0);
            assert!(queue.held <= most && queue.chunks.used <= MAX_CHUNKS);
        }
        assert!(queue.chunks.all.len() <= MAX_CHUNKS);
        assert_eq!(queue.lost.full + queue.frames(), 3_010);
        let out: Vec<_> = std::iter::from_fn(|| pop(&mut queue, 0)).collect();
        assert_eq!(out.iter().filter(|frame| port(frame) == 7).count(), 10, "the small flow lost nothing");
        let last = out.iter().rfind(|frame| port(frame) == 1).unwrap();
        assert_eq!(last[42..46], 2_999_u32.to_be_bytes(), "the oldest went");
        queue.shrink();
        assert!(queue.chunks.all.is_empty() && queue.flows.is_empty());
    }
}

/// A flow that sends as much as goes out, behind a standing queue of so many milliseconds.
fn standing(wait_ms: u64, tos: u8) -> (Lost, Vec<Vec<u8>>) {
    let mut queue = FairQueue::default();
    let mut out = Vec::new();
    for now in 0..2_000 {
        let mut frame = frame(1, 1514, now as u32);
        frame[15] = tos;
        push(&mut queue, &frame, now * MS);
        if now >= wait_ms {
            out.extend(pop(&mut queue, now * MS));
        }
    }
    (queue.lost, out)
}

#[test]
fn a_standing_queue_is_worn_down_and_a_short_one_left_alone() {
    assert_eq!(standing(4, 0).0, Lost::default());
    let (lost, out) = standing(50, 0);
    assert_eq!((lost.full, lost.marked), (0, 0));
    // One after an interval, the next after 1/sqrt(2) of it and so on, until the wait is short.
    assert!((40..=60).contains(&lost.late), "{lost:?}");
    let numbers: Vec<u32> = out.iter().map(|f| u32::from_be_bytes([f[42], f[43], f[44], f[45]])).collect();
    assert!(numbers.is_sorted());
    assert!(numbers.last().is_some_and(|last| 1_999 - last < 7), "{numbers:?}");
    let first = numbers.windows(2).position(|pair| pair[1] != pair[0] + 1).unwrap();
    assert!((95..=105).contains(&first), "the first drop comes after an interval, not after {first} ms");
}

#[test]
fn a_flow_that_understands_marks_is_marked_instead() {
    let (lost, out) = standing(50, 0b10);
    assert_eq!((lost.full, lost.late), (0, 0));
    let marked = out.iter().filter(|frame| frame[15] == 0b11).count();
    assert_eq!(marked as u64, lost.marked);
    assert!(marked > 10);
    assert_eq!(out.len(), 1_950, "and nothing is lost");
}

#[test]
fn one_mask_goes_on_as_the_other_comes_off_and_marks_find_their_place() {
    let mut clear = frame(1, 65_000, 5);
    clear[15] = 0b01;
    let key = [1, 2, 3, 4];
    let mut sealed = clear[22..].to_vec();
    mask(&mut sealed, key, 32);
    let header = [9; 10];
    let pieces = [header[..].into(), clear[..22].into(), Piece { bytes: &sealed, key, phase: 32 }];
    let mut queue = FairQueue::default();
    let label = Label { frames: (45, 67_000), stamp: 9 };
    for now in [0, 0, 50 * MS] {
        queue.push((1, None), &pieces, Some([6, 7, 8, 9]), label, now, &mut ());
    }
    assert_eq!(queue.frames(), 135);
    let at = queue.flows.iter().find(|flow| flow.head != NONE).unwrap().head;
    assert!(queue.mark(at));
    let mut labels = Vec::new();
    while queue.pop(0).is_some() {}
    let mut slices = [IoSlice::new(&[]); 160];
    assert_eq!(queue.leaving(&mut slices[..33]), 33, "no more than there is room for");
    let count = queue.leaving(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter()).copied().collect();
    assert_eq!(queue.advance(bytes.len() - 1, |label| labels.push(label)), (90, 134_000));
    assert_eq!(queue.advance(1, |label| labels.push(label)), (45, 67_000));
    assert_eq!(labels, [label; 3]);
    let wanted = [&header[..], &clear].concat();
    let mut rest = &bytes[..];
    for marked in [true, false, false] {
        let head = Header::parse(rest).unwrap().unwrap();
        let mut payload = rest[head.len..head.len + head.payload as usize].to_vec();
        mask(&mut payload, head.key.unwrap(), 0);
        let mut wanted = wanted.clone();
        if marked {
            mark_congestion(&mut wanted[10..]);
        }
        assert!(payload == wanted);
        rest = &rest[head.len + payload.len()..];
    }
    assert!(queue.is_empty() && queue.chunks.used == 0);
}

#[test]
fn what_does_not_wait_comes_behind_what_is_leaving() {
    let mut queue = FairQueue::default();
    (0..3).for_each(|number| push(&mut queue, &frame(1, 100, number), 0));
    queue.pop(0);
    queue.advance(5, |_| panic!("it has no stamp"));
    queue.push_leaving(Opcode::Pong, b"here", None);
    queue.pop(0);
    let mut slices = [IoSlice::new(&[]); 80];
    let count = queue.leaving(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter()).copied().collect();
    let first = 2 + 4 + 100;
    assert_eq!(bytes[first - 5..][..6], [0x8a, 4, b'h', b'e', b'r', b'e']);
    assert_eq!(bytes.len(), first - 5 + 6 + first);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Frames of a flow come out in their order and as they were; what does not come out is counted.
    #[test]
    fn nothing_is_lost_without_a_name(
        steps in prop::collection::vec((0_u16..12, 0_usize..70_000, any::<bool>(), 0_u64..3 * MS), 1..1_500),
    ) {
        let mut queue = FairQueue::default();
        let mut sent: HashMap<u16, VecDeque<Vec<u8>>> = HashMap::new();
        let (mut now, mut pushed, mut popped) = (0_u64, 0_u64, 0_u64);
        let take = |queue: &mut FairQueue, now, sent: &mut HashMap<u16, VecDeque<Vec<u8>>>| {
            let Some(out) = pop(queue, now) else { return false };
            let flow = sent.get_mut(&port(&out)).unwrap();
            // Those in front of it were dropped.
            while flow.pop_front().unwrap() != out {}
            true
        };
        for (number, (from, len, both, passed)) in steps.into_iter().enumerate() {
            now += passed;
            // Mostly small ones.
            let frame = frame(from, if from < 9 { len % 1_600 } else { len.min(MAX_FRAME) }, number as u32);
            push(&mut queue, &frame, now);
            sent.entry(from).or_default().push_back(frame);
            pushed += 1;
            popped += u64::from(both && take(&mut queue, now, &mut sent));
        }
        prop_assert_eq!(pushed, popped + queue.frames() + queue.lost.full + queue.lost.late);
        while take(&mut queue, now, &mut sent) {
            popped += 1;
        }
        prop_assert_eq!(pushed, popped + queue.lost.full + queue.lost.late);
        prop_assert!(queue.is_empty() && queue.chunks.used == 0);
        prop_assert_eq!(queue.free.len(), queue.waiting.len());
        prop_assert_eq!(queue.chunks.free.len(), queue.chunks.all.len());
    }
}

/// What is said of a flow comes behind all of its frames that are not dropped, whatever becomes of these.
#[test]
fn a_mark_keeps_its_place_in_its_flow_and_is_never_dropped() {
    // Too many, too late, or neither.
    for (count, every) in [(10, 1_000), (3_000, 1_000), (200, 20_000_000)] {
        let mut queue = FairQueue::default();
        let flow = flow_of(&[Piece::from(&frame(7, 0, 0)[..])], &queue.hasher);
        queue.push_mark(flow, b"first", None);
        assert_eq!(queue.count_leaving(), 1, "nothing is before it");
        let mut now = 0;
        for number in 0..count {
            push(&mut queue, &frame(7, 1_000, number), now);
            push(&mut queue, &frame(8, 1_000, number), now);
            if number % 50 == 9 {
                queue.push_mark(flow, &number.to_be_bytes(), Some([1, 2, 3, 4]));
            }
            now += 1_000;
        }
        let (mut got, mut marks) = (Vec::new(), Vec::new());
        while !queue.is_empty() {
            queue.pop(now);
            now += every;
            for message in written(&mut queue) {
                match <[u8; 4]>::try_from(&message[..]) {
                    Ok(number) => marks.push((u32::from_be_bytes(number), got.last().copied())),
                    Err(_) if message == b"first" => (),
                    Err(_) if port(&message) == 7 => {
                        got.push(u32::from_be_bytes(*message.last_chunk().unwrap()));
                    }
                    Err(_) => (),
                }
            }
        }
        let all: Vec<u32> = (0..count).filter(|number| number % 50 == 9).collect();
        assert_eq!(marks.iter().map(|(number, _)| *number).collect::<Vec<_>>(), all);
        assert!(got.is_sorted());
        for (number, before) in marks {
            assert!(before.is_none_or(|before| before <= number), "{before:?} before mark {number}");
            let next = got.iter().find(|frame| Some(**frame) > before);
            assert!(next.is_none_or(|next| *next > number), "frame {next:?} behind mark {number}");
        }
        assert_eq!((queue.held, queue.flows[flow].backlog), (0, 0));
        if count == 3_000 {
            assert!(queue.lost.full > 0);
        }
    }
}

#[test]
fn bad_78_what_is_said_of_flows_has_a_bound() {
    let mut queue = FairQueue::default();
    for said in 0..MAX_MESSAGES {
        assert!(queue.has_room(), "{said}");
        queue.push_mark(said % FLOWS, &[0; 8], None);
    }
    assert!(!queue.has_room());
}
