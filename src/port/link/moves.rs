//! A frame by one of several connections. A move is told on both of its sides before the frame goes, and whoever hears of
//! it waits for what went before ([`super::spread`]).

use std::sync::atomic::Ordering::Relaxed;

use super::Link;
use super::member::Member;
use super::spread::{Awaited, Bucket, Mark, Spread, Way};
use crate::frame::offload::VnetHeader;
use crate::prof::Tape;
use crate::switch::{Now, Reason};
use crate::ws::codec::Piece;
use crate::ws::joining::Which;

impl Link {
    /// [`Link::send_pieces`] where there is more than one place.
    pub(super) fn send_spread(
        &self,
        more: &Spread,
        header: &VnetHeader,
        frame: &[Piece<'_>],
        sent: (u32, u32),
        now: Now,
        tape: &mut impl Tape,
    ) -> Result<bool, Reason> {
        let (index, now) = (more.bucket_of(frame), now.0.as_nanos() as u64);
        let mut bucket = more.lock(index);
        bucket.count(frame.iter().map(|piece| piece.bytes.len()).sum(), now);
        let mut works = self.up.load(Relaxed);
        let (mut marked, mut left) = (false, None);
        loop {
            // A pace is one connection's.
            let up = if self.pace.load(Relaxed) == 0 { works } else { works & works.wrapping_neg() };
            let drained = |member| self.member(member).is_none_or(Member::is_drained);
            let lightest = |among| more.lightest(among, now);
            let to = match bucket.route(now, up, drained, lightest).ok_or(Reason::LinkDown)? {
                Way::Goes(to) => to,
                Way::Moves(to) => {
                    marked = true;
                    match self.tell(&mut bucket, index, to, works, &mut left) {
                        true => to,
                        // A pace has taken its place away, and nobody may overtake it.
                        false if up >> bucket.went.member & 1 == 0 => return Err(Reason::QueueFull),
                        false => bucket.went.member,
                    }
                }
            };
            let at = self.member(to).ok_or(Reason::LinkDown)?;
            match at.send(header, frame, sent, Some(index), tape) {
                // It has broken this moment; its session will find out.
                Err(Reason::LinkDown) => works &= !(1 << to),
                taken => {
                    let (first, n) = taken?;
                    bucket.went(Which { member: to, n }, now);
                    return Ok(first || marked);
                }
            }
        }
    }

    /// Says where a bucket has left and where it enters; `false`: there is no room for that. `left`: where it was said that
    /// it has left, whoever was to have it next.
    fn tell(&self, bucket: &mut Bucket, index: usize, to: u8, works: u16, left: &mut Option<Which>) -> bool {
        let (from, number) = (bucket.went, index as u16);
        let (Some(old), Some(new)) = (self.member(from.member), self.member(to)) else { return true };
        let told = works >> from.member & 1 == 1;
        if left.is_none() && told {
            if !(old.has_room() && new.takes_in()) {
                bucket.stays();
                return false;
            }
            let epoch = bucket.moves();
            let n = old.mark(index, Mark::Leaves { bucket: number, epoch });
            *left = n.map(|n| Which { n, ..from });
        }
        match *left {
            Some(from) => {
                new.mark(index, Mark::Enters { bucket: number, epoch: bucket.epoch, from, told: true });
            }
            None if new.has_room() => {
                let epoch = bucket.moves();
                new.mark(index, Mark::Enters { bucket: number, epoch, from, told: false });
            }
            // More is said of moves than the peer reads.
            None => (),
        }
        true
    }

    /// What was said of a bucket on a member's connection; what has to come before that is read on.
    /// `link` is the one that the connection is of ([`Link::which`]).
    pub(super) fn hear(&self, link: u32, member: u8, mark: Mark) -> Option<Awaited> {
        let more = self.more.get()?;
        let what = match mark {
            Mark::Leaves { bucket, epoch } => {
                more.has_left(link, bucket, epoch);
                self.members().for_each(Member::wake);
                return None;
            }
            Mark::Enters { from, .. } if from.member == member => return None,
            Mark::Enters { bucket, epoch, from, told: true } => Awaited::Left { bucket, epoch, from },
            Mark::Enters { from, told: false, .. } => Awaited::Read(from),
        };
        (!self.is_over(what)).then_some(what)
    }

    /// A wait is over. A connection that was waited for in vain is not waited for again.
    pub(super) fn forgo(&self, what: Awaited) {
        if let Awaited::Read(from) = what
            && let Some(at) = self.member(from.member)
        {
            at.lock().forgo(from.n);
        }
    }

    /// Whether what was waited for has come, or will not come any more.
    pub(super) fn is_over(&self, what: Awaited) -> bool {
        let has_read = |from: Which| self.member(from.member).is_none_or(|at| at.lock().has_read(from.n));
        match what {
            Awaited::Turn { member, count } => {
                self.member(member).is_none_or(|at| at.lock().has_read_by(count))
            }
            Awaited::Read(from) => has_read(from),
            Awaited::Left { bucket, epoch, from } => {
                self.more.get().is_none_or(|more| more.is_left(bucket, epoch)) || has_read(from)
            }
        }
    }
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
