//! Names are how people and configuration speak of a port: which are taken, and what a new port is called that has
//! none, or the name of one that is there. With ten thousand links of one name none of that may look at all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{MutexGuard, PoisonError};

use super::{PortError, Ports};
use crate::port::qemu::Address;
use crate::port::spec::{PortKind, PortSpec};

/// The names of all ports.
#[derive(Default)]
pub struct Names {
    /// The number of the port that has it.
    taken: HashMap<String, u32>,
    numbered: HashMap<String, Numbers>,
}

/// The numbers behind one name: those below `next` are taken but for these that are `free`, and `next` is not taken.
struct Numbers {
    next: u32,
    free: BTreeSet<u32>,
}

impl Names {
    pub fn owner(&self, name: &str) -> Option<u32> {
        self.taken.get(name).copied()
    }

    pub fn take(&mut self, name: &str, port: u32) {
        self.taken.insert(name.to_owned(), port);
        let Some((base, number)) = split(name) else { return };
        // Most are numbered from 2 on.
        let new = || Numbers { next: 2, free: BTreeSet::from([1]) };
        let numbers = self.numbered.entry(base.to_owned()).or_insert_with(new);
        numbers.free.remove(&number);
        if number == numbers.next {
            let taken = |number: u32| self.taken.contains_key(&format!("{base}-{number}"));
            numbers.next = (number..).find(|number| !taken(*number)).unwrap_or(number);
        }
    }

    pub fn give_back(&mut self, name: &str) {
        self.taken.remove(name);
        let Some((base, number)) = split(name) else { return };
        let Some(numbers) = self.numbered.get_mut(base) else { return };
        if number < numbers.next {
            numbers.free.insert(number);
        }
        if numbers.free.len() as u32 + 1 >= numbers.next {
            self.numbered.remove(base);
        }
    }

    /// `base` with the least number from `first` on that is free behind it.
    pub fn numbered(&self, base: &str, first: u32) -> String {
        let free = |numbers: &Numbers| {
            let gap = numbers.free.range(first..).next().copied();
            gap.unwrap_or(numbers.next.max(first))
        };
        let least = self.numbered.get(base).map_or(first, free);
        let mut names = (least..).map(|number| format!("{base}-{number}"));
        names.find(|name| !self.taken.contains_key(name)).unwrap_or_default()
    }
}

/// What a number was put behind, and the number.
fn split(name: &str) -> Option<(&str, u32)> {
    let (base, digits) = name.rsplit_once('-')?;
    let number = digits.starts_with(|c: char| matches!(c, '1'..='9')).then(|| digits.parse().ok())??;
    Some((base, number))
}

impl Ports {
    pub(super) fn named(&self) -> MutexGuard<'_, Names> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_name(&self, name: &str, besides: Option<u32>) -> Result<(), PortError> {
        let shaped = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:@".contains(&b))
            && !name.bytes().all(|b| b.is_ascii_digit());
        if !shaped {
            return Err(PortError::Invalid(format!(
                "{name:?} cannot be a port's name: 1 to {MAX_NAME} letters, digits and ._-:@, not all digits"
            )));
        }
        if self.named().owner(name).is_some_and(|owner| Some(owner) != besides) {
            Err(PortError::Invalid(format!("another port is called {name}; choose another name")))
        } else {
            Ok(())
        }
    }

    /// `wanted`, with `-2`, `-3` behind it while it is taken.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        let named = self.named();
        match named.owner(wanted) {
            None => wanted.to_owned(),
            Some(_) => named.numbered(wanted, 2),
        }
    }
}

/// A device's or socket's name, or the host of a URL.
pub(super) fn default_name(spec: &PortSpec) -> String {
    if spec.kind == PortKind::Qemu {
        return name_from(
            &Address::of(&spec.target, &spec.options).map_or_else(|_| String::new(), |a| a.stem()),
        );
    }
    if spec.kind != PortKind::Client {
        return name_from(&spec.target);
    }
    let rest = spec.target.split_once("://").map_or(&*spec.target, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    name_from(host)
}

/// The nearest name that [`Ports::check_name`] takes, with room for a number behind it.
pub(super) fn name_from(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-:@".contains(c) { c } else { '_' })
        .take(MAX_NAME - "p".len() - "-65536".len())
        .collect();
    if name.bytes().all(|b| b.is_ascii_digit()) || name.starts_with('-') {
        name.insert(0, 'p');
    }
    name
}

const MAX_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_targets() {
        for (kind, target, name) in [
            (PortKind::Tap, "tap0", "tap0"),
            (PortKind::Netdev, "1234", "p1234"),
            (PortKind::Client, "wss://user:pw@example.org:8443/x?y", "example.org"),
            (PortKind::Client, "ws://[fd00::1]:80/", "fd00::1"),
            (PortKind::Client, "ws://10.0.0.1", "10.0.0.1"),
            (PortKind::Qemu, "unix:/run/etherws/vms.sock", "vms"),
            (PortKind::Qemu, "tcp:5000", "qemu"),
        ] {
            assert_eq!(default_name(&PortSpec::new(kind, target)), name, "{target}");
        }
    }

    /// What it was before there was a book of names: the least number that no port has.
    fn least(taken: &BTreeSet<String>, base: &str, first: u32) -> String {
        (first..).map(|n| format!("{base}-{n}")).find(|name| !taken.contains(name)).unwrap()
    }

    #[test]
    fn the_least_free_number_is_found_whoever_comes_and_goes() {
        let (mut names, mut taken) = (Names::default(), BTreeSet::<String>::new());
        let mut state = 7u64;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        for turn in 0..20_000 {
            let base = ["a", "a-2", "b-x"][dice(3) as usize];
            let first = 1 + dice(2) as u32;
            let name = match dice(8) {
                0..3 => names.numbered(base, first),
                3 => format!("{base}-{}", dice(40)),
                4 => ["a", "a-02", "a-+3", "a-4294967295", "b-", "-1"][dice(6) as usize].to_owned(),
                _ => {
                    // Whoever is there goes, at times until few are left.
                    let gone: Vec<_> = taken.iter().take(1 + (turn / 1_000 % 4) as usize).cloned().collect();
                    gone.iter().for_each(|name| names.give_back(name));
                    taken.retain(|name| !gone.contains(name));
                    continue;
                }
            };
            assert_eq!(names.numbered(base, first), least(&taken, base, first), "turn {turn}");
            if taken.insert(name.clone()) {
                names.take(&name, turn);
            }
            assert_eq!(names.owner(&name).is_some(), taken.contains(&name));
        }
        taken.iter().for_each(|name| names.give_back(name));
        assert!(names.taken.is_empty() && names.numbered.is_empty(), "{:?}", names.numbered.keys());
    }

    #[test]
    fn a_name_that_many_have_takes_no_longer_for_the_last_of_them() {
        let mut names = Names::default();
        names.take("link", 1);
        for port in 2..200_000 {
            let name = names.numbered("link", 2);
            assert_eq!(name, format!("link-{port}"));
            names.take(&name, port);
        }
        names.give_back("link-77");
        assert_eq!(names.numbered("link", 2), "link-77");
    }
}
