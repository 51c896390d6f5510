//! Copies of the threads' stacks, taken as they use up CPU time.
//!
//! Each thread has a timer on its own CPU clock (timer_create(2)), whose SIGPROF goes to that thread alone. The
//! handler copies the registers and the innermost 128 KiB of the stack into a free slot, and that is all: it
//! follows no pointer, takes no lock and allocates nothing, so it may interrupt any code, malloc and the
//! dynamic linker included. The stack is copied by process_vm_readv(2), which gives an error where a read of
//! our own would fault. Who calls [`Sampler::drain`] reads the copies at leisure and may make of them what a
//! handler could not.
//!
//! The kernel looks at CPU timers at its tick, 100 to 1,000 times a second. A timer that is faster than that
//! says how many periods have gone by, and the sample counts for so many.

use std::cell::UnsafeCell;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize};

use libc::{c_int, c_void};

/// Registers by their DWARF numbers (psABI of x86-64, AADWARF64), and the instruction that was next.
#[derive(Clone, Copy, Default, Debug)]
pub struct Registers {
    pub values: [u64; 32],
    pub pc: u64,
}

/// DWARF numbers of the stack pointer and of the return address.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: Option<(u16, u16)> = Some((7, 16));
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: Option<(u16, u16)> = Some((31, 30));
/// Nothing: no sampling on this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const REGISTERS: Option<(u16, u16)> = None;

/// One look at one thread.
pub struct Sample<'a> {
    /// Index into [`Sampler::threads`].
    pub thread: usize,
    /// Periods of CPU time that it stands for.
    pub weight: u64,
    pub registers: &'a Registers,
    /// From the stack pointer upward; empty where the kernel would not copy it.
    pub stack: &'a [u8],
}

/// Samples all threads but the one that started it, until dropped. One at a time.
pub struct Sampler {
    ring: *mut Ring,
    threads: Vec<Thread>,
    own: libc::pid_t,
    period: libc::timespec,
}

struct Thread {
    id: libc::pid_t,
    name: String,
    timer: libc::timer_t,
}

impl Sampler {
    /// `hz` samples in a second of each thread's CPU time.
    ///
    /// # Errors
    /// `ResourceBusy` when there is a sampler already, `Unsupported` on a processor whose registers are not
    /// known here, and what the kernel says.
    pub fn start(hz: u32) -> io::Result<Self> {
        if REGISTERS.is_none() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let ring = Box::into_raw(Box::new(Ring::new()));
        if RING.compare_exchange(ptr::null_mut(), ring, SeqCst, SeqCst).is_err() {
            // SAFETY: made by Box::into_raw just now and given to nobody.
            drop(unsafe { Box::from_raw(ring) });
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let nanoseconds = 1_000_000_000 / i64::from(hz.max(1));
        let period =
            libc::timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
        // SAFETY: gettid(2) has no preconditions.
        let own = unsafe { libc::gettid() };
        // From here on dropping it undoes everything.
        let mut sampler = Self { ring, threads: Vec::new(), own, period };
        handle(on_sigprof as *const () as libc::sighandler_t)?;
        sampler.follow()?;
        Ok(sampler)
    }

    /// Sets a timer for each thread that has none yet.
    ///
    /// # Errors
    /// When no thread at all can be sampled.
    pub fn follow(&mut self) -> io::Result<()> {
        let mut failure = None;
        for entry in std::fs::read_dir("/proc/self/task")?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|id| id.parse().ok()) else { continue };
            if id == self.own || self.threads.iter().any(|thread| thread.id == id) {
                continue;
            }
            match self.timer(id) {
                Ok(timer) => self.threads.push(Thread { id, name: name_of(id).unwrap_or_default(), timer }),
                Err(error) => failure = Some(error),
            }
        }
        // A thread names itself after it has begun.
        for thread in &mut self.threads {
            thread.name = name_of(thread.id).unwrap_or(mem::take(&mut thread.name));
        }
        failure.filter(|_| self.threads.is_empty()).map_or(Ok(()), Err)
    }

    fn timer(&self, id: libc::pid_t) -> io::Result<libc::timer_t> {
        // MAKE_THREAD_CPUCLOCK of the kernel's posix-timers_types.h: that thread's clock, user and system time.
        let clock = (!id << 3) | 4 | 2;
        // SAFETY: a sigevent of zeros is one; the fields that count are set below.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        // SAFETY: both calls only write into the places given, which live until they return.
        unsafe {
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGPROF;
            event.sigev_notify_thread_id = id;
            event.sigev_value.sival_ptr = tag(self.threads.len(), (*self.ring).generation) as *mut c_void;
            let mut timer = MaybeUninit::uninit();
            if libc::timer_create(clock, &mut event, timer.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let timer = timer.assume_init();
            let every = libc::itimerspec { it_interval: self.period, it_value: self.period };
            if libc::timer_settime(timer, 0, &every, ptr::null_mut()) != 0 {
                let error = io::Error::last_os_error();
                libc::timer_delete(timer);
                return Err(error);
            }
            Ok(timer)
        }
    }

    /// Names of the threads, in the order in which they were found.
    pub fn threads(&self) -> impl ExactSizeIterator<Item = &str> {
        self.threads.iter().map(|thread| thread.name.as_str())
    }

    /// Hands over what has come since the last time.
    pub fn drain(&self, mut take: impl FnMut(Sample)) {
        for slot in &self.ring().slots {
            if slot.state.load(Acquire) != READY {
                continue;
            }
            // SAFETY: a READY slot is ours until it is FREE again: the handler writes to slots that it has made
            // FILLING alone, and only a FREE one becomes that.
            let (seen, stack) = unsafe {
                let seen = &*slot.seen.get();
                (seen, std::slice::from_raw_parts(self.ring().stack_of(slot), seen.length))
            };
            if seen.thread < self.threads.len() {
                take(Sample { thread: seen.thread, weight: seen.weight, registers: &seen.registers, stack });
            }
            slot.state.store(FREE, Release);
        }
    }

    /// Periods whose samples found no free slot.
    pub fn lost(&self) -> u64 {
        self.ring().lost.load(Relaxed)
    }

    fn ring(&self) -> &Ring {
        // SAFETY: made by Box::into_raw in `start` and freed in `drop` alone.
        unsafe { &*self.ring }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        for thread in &self.threads {
            // SAFETY: made by timer_create and deleted here alone.
            unsafe { libc::timer_delete(thread.timer) };
        }
        // A signal that is still on its way must not have its default action, the end of the process. Before
        // the ring is free for another: that one's handler has to stay.
        let _ = handle(libc::SIG_IGN);
        RING.store(ptr::null_mut(), SeqCst);
        // A handler that is under way has counted itself before it looked for the ring: whoever is not counted
        // now finds none.
        while INSIDE.load(SeqCst) > 0 {
            std::thread::yield_now();
        }
        // SAFETY: from Box::into_raw in `start`; no handler knows it any more, as just shown.
        drop(unsafe { Box::from_raw(self.ring) });
    }
}

/// What the handler writes to.
struct Ring {
    slots: Vec<Slot>,
    /// [`STACK`] bytes for each slot. Never touched is never resident.
    stacks: *mut [u8],
    next: AtomicUsize,
    lost: AtomicU64,
    /// Which sampler this is: a signal of one before it is not counted.
    generation: u32,
}

struct Slot {
    index: usize,
    state: AtomicU8,
    seen: UnsafeCell<Seen>,
}

#[derive(Default)]
struct Seen {
    thread: usize,
    weight: u64,
    registers: Registers,
    length: usize,
}

impl Ring {
    fn new() -> Self {
        static GENERATIONS: AtomicUsize = AtomicUsize::new(0);
        let slot = |index| Slot { index, state: AtomicU8::new(FREE), seen: UnsafeCell::default() };
        Self {
            slots: (0..SLOTS).map(slot).collect(),
            stacks: Box::into_raw(vec![0; SLOTS * STACK].into_boxed_slice()),
            next: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            generation: GENERATIONS.fetch_add(1, Relaxed) as u32,
        }
    }

    fn stack_of(&self, slot: &Slot) -> *mut u8 {
        // SAFETY: there are SLOTS times STACK bytes, and the index is below SLOTS.
        unsafe { self.stacks.cast::<u8>().add(slot.index * STACK) }
    }

    /// Runs in the handler: what it calls must be async-signal-safe (signal-safety(7)).
    fn take(&self, thread: usize, weight: u64, context: &libc::ucontext_t) {
        let first = self.next.fetch_add(1, Relaxed);
        for offset in 0..SLOTS {
            let slot = &self.slots[first.wrapping_add(offset) % SLOTS];
            if slot.state.compare_exchange(FREE, FILLING, Acquire, Relaxed).is_err() {
                continue;
            }
            let registers = registers(context);
            let length = copy_stack(self.stack_of(slot), &registers);
            // SAFETY: nobody else touches a slot that we have made FILLING.
            unsafe { *slot.seen.get() = Seen { thread, weight, registers, length } };
            slot.state.store(READY, Release);
            return;
        }
        self.lost.fetch_add(weight, Relaxed);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: from Box::into_raw in `new`.
        drop(unsafe { Box::from_raw(self.stacks) });
    }
}

/// The ring of the sampler that there is.
static RING: AtomicPtr<Ring> = AtomicPtr::new(ptr::null_mut());
/// Handlers that may be using it.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// siginfo_t of a timer's signal (asm-generic/siginfo.h); libc has no name for the overrun.
#[repr(C)]
struct TimerInfo {
    signo: c_int,
    errno: c_int,
    code: c_int,
    /// What follows is aligned for pointers.
    _pad: c_int,
    timer: c_int,
    overrun: c_int,
    value: usize,
}

// Where 64-bit Linux has them.
const _: () = assert!(mem::offset_of!(TimerInfo, overrun) == 20 && mem::offset_of!(TimerInfo, value) == 24);

extern "C" fn on_sigprof(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: errno is this thread's own, and what was interrupted may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    INSIDE.fetch_add(1, SeqCst);
    let ring = RING.load(SeqCst);
    if !ring.is_null() {
        // SAFETY: the kernel gives both pointers to a handler with SA_SIGINFO; the ring lives while we are counted.
        unsafe {
            // On 64 bits `value` is aligned to 8, which the kernel's layout says too.
            let info = &*info.cast::<TimerInfo>();
            // Somebody's kill(2) is not a sample.
            if info.code == libc::SI_TIMER {
                let thread = info.value & 0xffff_ffff;
                if info.value == tag(thread, (*ring).generation) {
                    let weight = 1 + u64::try_from(info.overrun).unwrap_or(0);
                    (*ring).take(thread, weight, &*context.cast::<libc::ucontext_t>());
                }
            }
        }
    }
    INSIDE.fetch_sub(1, SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// What a thread's timer shows of itself.
fn tag(thread: usize, generation: u32) -> usize {
    ((u64::from(generation) << 32) as usize) | thread
}

/// The stack from its pointer upward, up to [`STACK`] bytes or its end; how many.
fn copy_stack(into: *mut u8, registers: &Registers) -> usize {
    let Some((sp, _)) = REGISTERS else { return 0 };
    let start = registers.values[usize::from(sp)] as usize;
    let local = libc::iovec { iov_base: into.cast(), iov_len: STACK };
    // A page each: a transfer may end between two of them, not within one.
    let mut pages = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; STACK / PAGE + 1];
    let mut at = start;
    let end = start.saturating_add(STACK);
    let mut count = 0;
    while at < end && count < pages.len() {
        let next = (at | (PAGE - 1)).saturating_add(1).min(end);
        pages[count] = libc::iovec { iov_base: at as *mut c_void, iov_len: next - at };
        (at, count) = (next, count + 1);
    }
    // SAFETY: `into` has STACK bytes that are ours; the remote side is checked by the kernel.
    let copied = unsafe {
        libc::process_vm_readv(libc::getpid(), &local, 1, pages.as_ptr(), count as libc::c_ulong, 0)
    };
    usize::try_from(copied).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    use libc::{
        REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RAX, REG_RBP, REG_RBX,
        REG_RCX, REG_RDI, REG_RDX, REG_RIP, REG_RSI, REG_RSP,
    };
    let general = &context.uc_mcontext.gregs;
    let value = |register: c_int| general[register as usize].cast_unsigned();
    let mut values = [0; 32];
    for (number, register) in [
        REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ]
    .into_iter()
    .enumerate()
    {
        values[number] = value(register);
    }
    Registers { values, pc: value(REG_RIP) }
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> Registers {
    let machine = &context.uc_mcontext;
    let mut values = [0; 32];
    values[..31].copy_from_slice(&machine.regs);
    values[31] = machine.sp;
    Registers { values, pc: machine.pc }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> Registers {
    Registers::default()
}

/// What SIGPROF does from now on. Interrupted system calls go on.
fn handle(action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: a sigaction of zeros is one with an empty mask; the handler has the signature of SA_SIGINFO.
    let done = unsafe {
        let mut new: libc::sigaction = mem::zeroed();
        new.sa_sigaction = action;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGPROF, &new, ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn name_of(id: libc::pid_t) -> Option<String> {
    if id == std::process::id().cast_signed() {
        return Some("main".to_owned());
    }
    std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).ok().map(|name| name.trim_end().to_owned())
}

const FREE: u8 = 0;
const FILLING: u8 = 1;
const READY: u8 = 2;
/// A drain every few milliseconds empties them long before they are used up.
const SLOTS: usize = 64;
/// The daemon's main thread has some 70 KiB, its future among them.
const STACK: usize = 128 << 10;
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_stack_is_copied_to_its_end_and_no_further() {
        let (sp, _) = REGISTERS.unwrap();
        let mut into = vec![0; STACK];
        let mut copy = |at: u64| {
            let mut registers = Registers::default();
            registers.values[usize::from(sp)] = at;
            copy_stack(into.as_mut_ptr(), &registers)
        };
        // SAFETY: new memory, given back below: two pages of which the second may not be read.
        let pages = unsafe {
            let (rw, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let pages = libc::mmap(ptr::null_mut(), 2 * PAGE, rw, private, -1, 0);
            assert_eq!(libc::mprotect(pages.byte_add(PAGE), PAGE, libc::PROT_NONE), 0);
            pages as u64
        };
        assert_eq!(copy(pages), PAGE);
        assert_eq!(copy(pages + 8), PAGE - 8);
        assert_eq!(copy(pages + PAGE as u64), 0);
        assert_eq!((copy(0), copy(u64::MAX)), (0, 0));
        // SAFETY: mapped above, used no more.
        unsafe { libc::munmap(pages as *mut c_void, 2 * PAGE) };
    }

    #[test]
    fn cpu_time_is_sampled_by_thread_and_a_late_signal_is_harmless() {
        let end = Instant::now() + Duration::from_secs(60);
        // Other tests of this process sample too.
        let turn = || loop {
            match Sampler::start(1000) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => break other.unwrap(),
            }
        };
        let sampler = turn();
        assert_eq!(Sampler::start(99).err().map(|e| e.kind()), Some(io::ErrorKind::ResourceBusy));
        drop(sampler);
        // SAFETY: a signal to ourselves, which is ignored by now.
        unsafe { libc::raise(libc::SIGPROF) };

        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut found = false;
        std::thread::scope(|scope| {
            let busy = || {
                while !stop.load(Relaxed) {
                    std::hint::spin_loop()
                }
            };
            std::thread::Builder::new().name("busy".into()).spawn_scoped(scope, busy).unwrap();
            let mut sampler = turn();
            while !found && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
                sampler.follow().unwrap();
                let mut of_thread = Vec::new();
                sampler.drain(|sample| {
                    assert!(sample.weight > 0 && !sample.stack.is_empty() && sample.registers.pc > 0);
                    of_thread.push(sample.thread);
                });
                let names: Vec<_> = sampler.threads().collect();
                found = of_thread.iter().any(|thread| names[*thread] == "busy");
            }
            stop.store(true, Relaxed);
        });
        assert!(found);
    }
}
