//! The slowest whole frames of a thread, kept in place: the thread writes, others read, and what is read
//! while it is written is left out.

use std::sync::atomic::{AtomicU64, Ordering::*, fence};

use super::stage::Path;

/// A frame that was watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traced {
    /// When it was done, and what it took, in ticks.
    pub at: u64,
    pub ticks: u64,
    pub len: u32,
    /// Destination and source.
    pub head: [u8; 12],
    pub ingress: u32,
    /// 0: none.
    pub egress: u32,
    pub stages: [(u8, u64); STAGES],
    pub count: u8,
}

/// Stages kept of a frame.
pub const STAGES: usize = 24;
/// Frames kept.
const KEPT: usize = 64;
const WORDS: usize = 7 + STAGES;

pub struct Slowest {
    /// What is kept is of this reset; the control side moves it on.
    wanted: AtomicU64,
    places: [Place; KEPT],
}

impl Default for Slowest {
    fn default() -> Self {
        Self { wanted: AtomicU64::new(0), places: std::array::from_fn(|_| Place::default()) }
    }
}

struct Place {
    /// Odd while it is written (a sequence lock).
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Default for Place {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }
}

/// What the writing thread knows of what is kept.
pub struct Writer {
    of: u64,
    ticks: [u64; KEPT],
    /// The place of the least.
    least: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { of: 0, ticks: [0; KEPT], least: 0 }
    }
}

impl Writer {
    /// Keeps the frame if it is among the slowest. The calling thread is the only one to write.
    pub fn keep(&mut self, slowest: &Slowest, frame: &Traced) {
        let wanted = slowest.wanted.load(Relaxed);
        if self.of != wanted {
            *self = Self { of: wanted, ..Self::default() };
        }
        if frame.ticks <= self.ticks[self.least] {
            return;
        }
        self.ticks[self.least] = frame.ticks;
        slowest.places[self.least].write(wanted, frame);
        let all = self.ticks.iter().enumerate();
        self.least = all.min_by_key(|(_, ticks)| **ticks).map_or(0, |(index, _)| index);
    }
}

impl Slowest {
    /// Forgets all.
    pub fn reset(&self) {
        self.wanted.fetch_add(1, Relaxed);
    }

    /// What is kept, in no order.
    pub fn frames(&self) -> Vec<Traced> {
        let wanted = self.wanted.load(Relaxed);
        self.places.iter().filter_map(|place| place.read(wanted)).collect()
    }
}

impl Place {
    fn write(&self, of: u64, frame: &Traced) {
        let mut words = [0; WORDS];
        words[0] = of;
        words[1] = frame.at;
        words[2] = frame.ticks;
        words[3] = u64::from(frame.ingress) << 32 | u64::from(frame.egress);
        words[4] = u64::from(frame.len) << 32 | u64::from(frame.count);
        let [a, b] = [&frame.head[..6], &frame.head[6..]]
            .map(|mac| mac.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)));
        (words[5], words[6]) = (a, b);
        for (word, (path, ticks)) in words[7..].iter_mut().zip(&frame.stages[..usize::from(frame.count)]) {
            *word = u64::from(*path) << 56 | ticks & TICKS;
        }
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence | 1, Relaxed);
        fence(Release);
        self.words.iter().zip(words).for_each(|(place, word)| place.store(word, Relaxed));
        self.sequence.store((sequence | 1) + 1, Release);
    }

    fn read(&self, wanted: u64) -> Option<Traced> {
        let before = self.sequence.load(Acquire);
        let words: [u64; WORDS] = std::array::from_fn(|n| self.words[n].load(Relaxed));
        fence(Acquire);
        if before % 2 == 1 || before == 0 || self.sequence.load(Relaxed) != before || words[0] != wanted {
            return None;
        }
        let mut head = [0; 12];
        head[..6].copy_from_slice(&words[5].to_be_bytes()[2..]);
        head[6..].copy_from_slice(&words[6].to_be_bytes()[2..]);
        let count = (words[4] as u8).min(STAGES as u8);
        Some(Traced {
            at: words[1],
            ticks: words[2],
            len: (words[4] >> 32) as u32,
            head,
            ingress: (words[3] >> 32) as u32,
            egress: words[3] as u32,
            stages: std::array::from_fn(|n| ((words[7 + n] >> 56) as u8, words[7 + n] & TICKS)),
            count,
        })
    }
}

impl Traced {
    /// A frame of which nothing is known yet.
    pub const NONE: Self = Self {
        at: 0,
        ticks: 0,
        len: 0,
        head: [0; 12],
        ingress: 0,
        egress: 0,
        stages: [(0, 0); STAGES],
        count: 0,
    };

    /// Adds a stage; beyond the last place they are added up there.
    pub fn push(&mut self, path: Path, ticks: u64) {
        self.ticks += ticks;
        let index = usize::from(self.count).min(STAGES - 1);
        if index < usize::from(self.count) {
            self.stages[index].1 += ticks;
        } else {
            self.stages[index] = (path.index() as u8, ticks);
            self.count += 1;
        }
    }
}

/// What of a word is ticks.
const TICKS: u64 = (1 << 56) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prof::stage::{Stage, Within};

    fn frame(ticks: u64) -> Traced {
        let mut frame = Traced {
            at: 7,
            len: 1514,
            head: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
            ingress: 1,
            egress: 2,
            ..Traced::NONE
        };
        frame.push(Path::of(Within::Frame, Stage::RxTapRead), ticks - 1);
        frame.push(Path::of(Within::Frame, Stage::TxWsMask), 1);
        frame
    }

    #[test]
    fn the_slowest_are_kept_and_a_reset_forgets_them() {
        let (slowest, mut writer) = (Slowest::default(), Writer::default());
        for n in 1..=1000 {
            writer.keep(&slowest, &frame(1 + n * 7919 % 1000));
        }
        let mut kept = slowest.frames();
        kept.sort_by_key(|frame| std::cmp::Reverse(frame.ticks));
        let want: Vec<_> = (0..KEPT as u64).map(|n| 1000 - n).collect();
        assert_eq!(kept.iter().map(|frame| frame.ticks).collect::<Vec<_>>(), want);
        assert_eq!(kept[0], frame(1000));
        slowest.reset();
        assert!(slowest.frames().is_empty());
        writer.keep(&slowest, &frame(5));
        assert_eq!(slowest.frames(), [frame(5)]);
    }

    #[test]
    fn a_frame_of_many_stages_keeps_its_sum() {
        let mut frame = Traced::NONE;
        for _ in 0..100 {
            frame.push(Path::of(Within::Flood, Stage::TxTapWrite), 3);
        }
        assert_eq!((frame.ticks, usize::from(frame.count)), (300, STAGES));
        assert_eq!(frame.stages.iter().map(|(_, ticks)| ticks).sum::<u64>(), 300);
    }
}
