//! What the writers of the forwarding database keep: how many entries there are, and a doubly linked list
//! of them for each owner, oldest first.

use std::collections::BTreeMap;
use std::iter::successors;

use super::super::forward::Slot;

/// Entries are known by their place in the table.
pub struct Book {
    entries: usize,
    links: Box<[Link]>,
    lists: BTreeMap<u32, List>,
    /// The list of each slot that has learned entries.
    current: BTreeMap<Slot, u32>,
    /// How many learned entries a slot may have; absent: any number.
    most: BTreeMap<Slot, u32>,
    /// The keys of entries that moved since somebody cleared this, as many as there is room for: who moves them allocates
    /// nothing.
    pub relocated: Vec<u64>,
    /// Lists whose port was flushed, as long as anything is in them.
    stale: Vec<u32>,
    next_list: u32,
}

/// No entry.
const NIL: u32 = u32::MAX;
const RELOCATED: usize = 1_024;
/// The list of static entries.
pub const STATICS: u32 = u32::MAX;

#[derive(Clone, Copy, Default)]
struct Link {
    prev: u32,
    next: u32,
    list: u32,
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    count: u32,
    /// Whose it is; `None` for the static entries and once flushed.
    slot: Option<Slot>,
}

impl Book {
    /// For entries below `places`.
    pub fn new(places: usize) -> Self {
        Self {
            entries: 0,
            links: vec![Link::default(); places].into(),
            lists: BTreeMap::new(),
            current: BTreeMap::new(),
            most: BTreeMap::new(),
            relocated: Vec::with_capacity(RELOCATED),
            stale: Vec::new(),
            next_list: 0,
        }
    }

    pub fn entries(&self) -> usize {
        self.entries
    }

    pub fn set_most(&mut self, slot: Slot, most: u32) {
        self.most.insert(slot, most);
    }

    /// Whether a slot has as many learned entries as it may.
    pub fn is_full(&self, slot: Slot) -> bool {
        let Some(most) = self.most.get(&slot) else { return false };
        let list = self.current.get(&slot).and_then(|id| self.lists.get(id));
        list.map_or(0, |list| list.count) >= *most
    }

    /// The entries of a list, oldest first.
    pub fn list(&self, id: u32) -> impl Iterator<Item = u32> {
        let is_some = |index: &u32| *index != NIL;
        let head = self.lists.get(&id).map(|list| list.head).filter(is_some);
        successors(head, move |index| Some(self.links[*index as usize].next).filter(is_some))
    }

    /// The entries of a slot, oldest first.
    pub fn of_slot(&self, slot: Slot) -> impl Iterator<Item = u32> {
        self.current.get(&slot).into_iter().flat_map(|list| self.list(*list))
    }

    /// Where entries of a slot belong.
    pub fn list_of(&mut self, slot: Slot) -> u32 {
        if let Some(list) = self.current.get(&slot) {
            return *list;
        }
        while self.next_list == STATICS || self.lists.contains_key(&self.next_list) {
            self.next_list = self.next_list.wrapping_add(1);
        }
        self.current.insert(slot, self.next_list);
        self.lists.insert(self.next_list, List { head: NIL, tail: NIL, count: 0, slot: Some(slot) });
        self.next_list
    }

    /// The slot's list is nobody's from now on; how many entries are in it.
    pub fn orphan(&mut self, slot: Slot) -> u32 {
        let Some(id) = self.current.remove(&slot) else { return 0 };
        self.stale.push(id);
        self.lists.get_mut(&id).map_or(0, |list| {
            list.slot = None;
            list.count
        })
    }

    /// Which list gives an entry up: a flushed one, else the longest.
    pub fn payer(&mut self) -> Option<u32> {
        if let Some(id) = self.stale.last() {
            return Some(*id);
        }
        let learned = self.lists.iter().filter(|(_, list)| list.slot.is_some());
        learned.max_by_key(|(_, list)| list.count).map(|(id, _)| *id)
    }

    pub fn push(&mut self, id: u32, index: u32) {
        let list = self.lists.entry(id).or_insert(List { head: NIL, tail: NIL, count: 0, slot: None });
        self.links[index as usize] = Link { prev: list.tail, next: NIL, list: id };
        match list.tail {
            NIL => list.head = index,
            tail => self.links[tail as usize].next = index,
        }
        list.tail = index;
        list.count += 1;
        self.entries += 1;
    }

    pub fn unlink(&mut self, index: u32) {
        let Link { prev, next, list: id } = self.links[index as usize];
        self.entries -= 1;
        if prev != NIL {
            self.links[prev as usize].next = next;
        }
        if next != NIL {
            self.links[next as usize].prev = prev;
        }
        let Some(list) = self.lists.get_mut(&id) else { return };
        if prev == NIL {
            list.head = next;
        }
        if next == NIL {
            list.tail = prev;
        }
        list.count -= 1;
        if list.count == 0 {
            let slot = list.slot;
            self.lists.remove(&id);
            match slot {
                Some(slot) => drop(self.current.remove(&slot)),
                // The number may be given to another list, which is not stale.
                None => self.stale.retain(|stale| *stale != id),
            }
        }
    }

    /// The entry of `key` at `from` is at `to` now.
    pub fn relocate(&mut self, key: u64, from: u32, to: u32) {
        if self.relocated.len() < RELOCATED {
            self.relocated.push(key);
        }
        let link = self.links[from as usize];
        self.links[to as usize] = link;
        let Some(list) = self.lists.get_mut(&link.list) else { return };
        match link.prev {
            NIL => list.head = to,
            prev => self.links[prev as usize].next = to,
        }
        match link.next {
            NIL => list.tail = to,
            next => self.links[next as usize].prev = to,
        }
    }
}
