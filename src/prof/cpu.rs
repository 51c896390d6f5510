//! Function stacks of the whole program, by CPU time.
//!
//! [`cpu_sampler`](crate::sys::cpu_sampler) brings copies of stacks; here each is unwound by the tables that
//! the compiler leaves in every program for panics (`.eh_frame`), so no frame pointers are needed, and counted.
//! Names are looked up at the end, once for each address: in the program's symbols, or in those of a separate
//! debug file that its build ID or its debug link leads to.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::io;
use std::time::{Duration, Instant};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, NativeEndian, ParsedEhFrameHdr, Pointer,
    Register, RegisterRule, UnwindContext, UnwindSection,
};

use crate::sys::cpu_sampler::{REGISTERS, Registers, Sampler};
use crate::sys::modules::{Module, modules};

/// What was found.
pub struct Profile {
    pub elapsed: Duration,
    /// Thread and functions, outermost first: samples.
    pub stacks: BTreeMap<(String, Vec<String>), u64>,
    /// Samples that could not be kept.
    pub lost: u64,
    /// What a reader should know.
    pub note: Option<String>,
}

/// Samples every thread but this one, `hz` times in a second of its CPU time, for `time` or until `stop`.
///
/// # Errors
/// What the kernel says when it gives no timers; `ResourceBusy` when somebody else samples.
pub fn sample(hz: u32, time: Duration, stop: impl Fn() -> bool) -> io::Result<Profile> {
    let modules = modules();
    let mut unwinder = Unwinder::new(&modules);
    let mut found: HashMap<(usize, Vec<u64>), u64> = HashMap::new();
    let (mut lost, mut blind) = (0, 0);
    let mut sampler = Sampler::start(hz)?;
    let start = Instant::now();
    let mut followed = start;
    loop {
        let elapsed = start.elapsed();
        let done = elapsed >= time || stop();
        sampler.drain(|sample| {
            let stack = unwinder.unwind(sample.registers, sample.stack);
            blind += u64::from(sample.stack.is_empty());
            let full = found.len() >= MAX_STACKS;
            let count = found.entry((sample.thread, stack));
            match count {
                std::collections::hash_map::Entry::Vacant(_) if full => lost += sample.weight,
                count => *count.or_default() += sample.weight,
            }
        });
        if done {
            break;
        }
        if followed.elapsed() >= FOLLOW {
            followed = Instant::now();
            sampler.follow()?;
        }
        std::thread::sleep(DRAIN.min(time.saturating_sub(elapsed)));
    }
    let elapsed = start.elapsed();
    sampler.follow()?;
    lost += sampler.lost();
    let threads: Vec<String> = sampler.threads().map(str::to_owned).collect();
    drop(sampler);

    let mut names = Names::new(&modules);
    let mut stacks: BTreeMap<(String, Vec<String>), u64> = BTreeMap::new();
    for ((thread, addresses), count) in found {
        let outermost_first = addresses.iter().rev();
        let stack = outermost_first.flat_map(|address| names.at(*address).to_vec()).collect();
        *stacks.entry((threads[thread].clone(), stack)).or_default() += count;
    }
    let note = names.note().or_else(|| {
        let why = "some stacks could not be read, as where process_vm_readv(2) is forbidden";
        (blind > 0).then(|| why.to_owned())
    });
    // It holds on to the debug file.
    backtrace::clear_symbol_cache();
    Ok(Profile { elapsed, stacks, lost, note })
}

/// Walks stacks by the modules' unwind tables.
struct Unwinder<'m> {
    modules: Vec<(&'m Module, Tables<'m>)>,
    context: Box<UnwindContext<usize>>,
}

type Slice<'m> = EndianSlice<'m, NativeEndian>;

struct Tables<'m> {
    header: ParsedEhFrameHdr<Slice<'m>>,
    frames: EhFrame<Slice<'m>>,
    bases: BaseAddresses,
}

/// What is behind a frame.
enum Step {
    Caller,
    /// Nothing: the thread began here.
    Began,
}

impl<'m> Unwinder<'m> {
    fn new(modules: &'m [Module]) -> Self {
        let tables = |module: &'m Module| {
            let [(header_at, header), (frames_at, frames)] = module.unwind.as_ref()?;
            let bases = BaseAddresses::default().set_eh_frame_hdr(*header_at).set_eh_frame(*frames_at);
            let header = EhFrameHdr::new(header, NativeEndian).parse(&bases, POINTER).ok()?;
            let fits = header.eh_frame_ptr() == Pointer::Direct(*frames_at);
            let frames = EhFrame::new(frames, NativeEndian);
            fits.then_some((module, Tables { header, frames, bases }))
        };
        Self { modules: modules.iter().filter_map(tables).collect(), context: Box::default() }
    }

    /// Addresses within the instructions that run or are being called from, innermost first, and
    /// [`CUT_OFF`] when outer ones are missing.
    fn unwind(&mut self, registers: &Registers, stack: &[u8]) -> Vec<u64> {
        let Some((sp, _)) = REGISTERS else { return vec![registers.pc] };
        let bottom = registers.values[usize::from(sp)];
        let read = |at: u64| {
            let offset = usize::try_from(at.checked_sub(bottom)?).ok()?;
            stack.get(offset..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
        };
        let mut addresses = vec![registers.pc];
        let mut frame = *registers;
        while addresses.len() < MAX_DEPTH {
            let innermost = addresses.len() == 1;
            match self.step(&mut frame, innermost, read) {
                Some(Step::Caller) => {}
                Some(Step::Began) => return addresses,
                None => break,
            }
            // A return address is behind the call, and may be behind its function.
            addresses.push(frame.pc - 1);
        }
        addresses.push(CUT_OFF);
        addresses
    }

    /// Makes of a frame's registers its caller's; nothing when no table knows them.
    fn step(
        &mut self,
        frame: &mut Registers,
        innermost: bool,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Option<Step> {
        let (sp, ra) = REGISTERS?;
        let at = if innermost { frame.pc } else { frame.pc - 1 };
        let holds = |(module, _): &&(&Module, Tables)| module.code.iter().any(|code| code.contains(&at));
        let (_, Tables { header, frames, bases }) = self.modules.iter().find(holds)?;
        let cie = EhFrame::cie_from_offset;
        let entry = header.table()?.fde_for_address(frames, bases, at, cie).ok()?;
        let row = entry.unwind_info_for_address(frames, bases, &mut self.context, at).ok()?;
        let values = frame.values;
        let value = |register: Register| values.get(usize::from(register.0)).copied();
        // Expressions occur in trampolines and in a little assembler; there the stack is cut off.
        let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
        let cfa = value(register)?.checked_add_signed(offset)?;
        // Stacks grow down; a table that says otherwise is not followed in circles.
        let below = values[usize::from(sp)];
        if cfa < below || cfa == below && !innermost {
            return None;
        }
        let recover = |register: Register, rule: Option<RegisterRule<usize>>| match rule {
            None | Some(RegisterRule::SameValue) => value(register),
            Some(RegisterRule::Offset(offset)) => read(cfa.checked_add_signed(offset)?),
            Some(RegisterRule::ValOffset(offset)) => cfa.checked_add_signed(offset),
            Some(RegisterRule::Register(other)) => value(other),
            Some(_) => None,
        };
        if matches!(row.register(Register(ra)), Some(RegisterRule::Undefined)) {
            return Some(Step::Began);
        }
        let pc = recover(Register(ra), row.register(Register(ra)))?;
        if pc == 0 {
            return Some(Step::Began);
        }
        for (register, rule) in row.registers() {
            if let Some(place) = frame.values.get_mut(usize::from(register.0)) {
                // What a function does not keep, its callers do not build on.
                *place = recover(*register, Some(rule.clone())).unwrap_or(0);
            }
        }
        frame.values[usize::from(sp)] = cfa;
        frame.pc = pc;
        Some(Step::Caller)
    }
}

/// Functions by address.
struct Names<'m> {
    modules: &'m [Module],
    known: HashMap<u64, Vec<String>>,
    /// Addresses in the program itself: with a name, and without.
    own: (usize, usize),
}

impl<'m> Names<'m> {
    fn new(modules: &'m [Module]) -> Self {
        Self { modules, known: HashMap::new(), own: (0, 0) }
    }

    /// The function at an address and those that it was inlined into, outermost first.
    fn at(&mut self, address: u64) -> &[String] {
        if !self.known.contains_key(&address) {
            let names = self.look_up(address);
            self.known.insert(address, names);
        }
        &self.known[&address]
    }

    fn look_up(&mut self, address: u64) -> Vec<String> {
        if address == CUT_OFF {
            return vec!["[cut off]".to_owned()];
        }
        let module =
            self.modules.iter().find(|module| module.code.iter().any(|code| code.contains(&address)));
        let mut names = Vec::new();
        // It looks one byte before what it takes for a return address.
        backtrace::resolve(address.wrapping_add(1) as *mut c_void, |symbol| {
            // Without the hash at the end.
            names.extend(symbol.name().map(|name| format!("{name:#}")));
        });
        names.reverse();
        let own = module.is_some_and(|module| module.name.is_empty());
        match names.is_empty() {
            false if own => self.own.0 += 1,
            true if own => self.own.1 += 1,
            _ => {}
        }
        if names.is_empty() {
            names.push(match module {
                Some(module) => format!("{}+{:#x}", short(module), address.wrapping_sub(module.bias)),
                None => format!("{address:#x}"),
            });
        }
        names
    }

    fn note(&self) -> Option<String> {
        let (named, nameless) = self.own;
        (nameless > named).then(|| {
            "the program has no symbols, so functions are shown as etherws+0xoffset, which addr2line takes; \
             with etherws.debug of the same make release beside it they have names"
                .to_owned()
        })
    }
}

/// The file's name, without its directory.
fn short(module: &Module) -> &str {
    match module.name.rsplit('/').next() {
        Some("") | None => "etherws",
        Some(name) => name,
    }
}

/// No address: outer frames are missing.
const CUT_OFF: u64 = u64::MAX;
const POINTER: u8 = 8;
const MAX_DEPTH: usize = 512;
/// Different stacks, before names: some 10 MB.
const MAX_STACKS: usize = 50_000;
const DRAIN: Duration = Duration::from_millis(5);
/// How soon a new thread is sampled.
const FOLLOW: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn outer_of_the_test(end: Instant) -> u64 {
        inner_of_the_test(end) + 1
    }

    #[inline(never)]
    fn inner_of_the_test(end: Instant) -> u64 {
        let mut turns = 0;
        while Instant::now() < end {
            for _ in 0..1000 {
                turns = std::hint::black_box(turns + 1);
            }
        }
        turns
    }

    #[test]
    fn a_busy_thread_is_found_with_its_functions_from_its_beginning() {
        // The sampler of the other test has its turn first.
        let deadline = Instant::now() + Duration::from_secs(60);
        let profile = loop {
            let busy = std::thread::Builder::new().name("busy-test".into());
            let end = Instant::now() + Duration::from_secs(1);
            let busy = busy.spawn(move || outer_of_the_test(end)).unwrap();
            let profile = sample(500, Duration::from_secs(2), || busy.is_finished());
            busy.join().unwrap();
            match profile {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {}
                other => break other.unwrap(),
            }
        };
        let of_thread: Vec<_> =
            profile.stacks.iter().filter(|((thread, _), _)| thread == "busy-test").collect();
        let at = |stack: &[String], function: &str| stack.iter().position(|name| name.ends_with(function));
        let nested = |stack: &[String]| {
            let (outer, inner) = (at(stack, "::outer_of_the_test"), at(stack, "::inner_of_the_test"));
            inner.is_some() && outer < inner && at(stack, "[cut off]").is_none()
        };
        let all: u64 = of_thread.iter().map(|(_, count)| **count).sum();
        let good: u64 =
            of_thread.iter().filter(|((_, stack), _)| nested(stack)).map(|(_, count)| **count).sum();
        assert!(good > 20 && good * 10 >= all * 9, "{good} of {all}: {of_thread:#?}");
        assert_eq!(profile.note, None);
    }
}
