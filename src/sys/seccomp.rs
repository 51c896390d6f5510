//! System calls that a switch never makes, refused by the kernel (seccomp(2)).
//!
//! A list of what is denied, not of what is allowed: the calls that libc makes change with its version, and
//! resolving a name may load modules of the host's own. A call missing in a list of allowed ones breaks a switch
//! on somebody's machine; one missing here is caught by the layers beside it (no privileges, no files).

use std::collections::BTreeMap;

use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

/// Denies them to the calling thread and to all that it starts from now on.
///
/// # Errors
/// On a processor that the compiler of filters does not know, and what the kernel says.
pub fn deny() -> Result<(), String> {
    let fail = |e: &dyn std::fmt::Display| format!("system calls could not be filtered: {e}");
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|e: seccompiler::BackendError| fail(&e))?;
    for (rules, errno) in [(denied(), Errno::EPERM), (unknown(), Errno::ENOSYS)] {
        let refuse = SeccompAction::Errno(errno as i32 as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(|e| fail(&e))?;
        let program: BpfProgram = filter.try_into().map_err(|e: seccompiler::BackendError| fail(&e))?;
        apply_filter(&program).map_err(|e| fail(&e))?;
    }
    apply_filter(&NO_X32).map_err(|e| fail(&e))
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What is answered EPERM.
fn denied() -> Rules {
    // No rules: whatever the arguments.
    let mut rules: Rules = NEVER.iter().chain(NEVER_HERE).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let conditional = [
        // The CPU sampler copies stacks of this process by it.
        (libc::SYS_process_vm_readv, vec![vec![is_not(0, own)]]),
        // Threads are made, processes and namespaces are not.
        (
            libc::SYS_clone,
            vec![vec![has_not(0, libc::CLONE_THREAD as u64)]]
                .into_iter()
                .chain(NAMESPACES.iter().map(|flag| vec![has(0, *flag as u64)]))
                .collect(),
        ),
        (libc::SYS_socket, vec![FAMILIES.iter().map(|family| is_not(0, *family as u64)).collect()]),
        // Typing into the terminal that the switch was started from.
        (libc::SYS_ioctl, vec![vec![is(1, libc::TIOCSTI)], vec![is(1, TIOCLINUX)]]),
        // Memory that can be written is not run.
        (libc::SYS_mmap, vec![vec![has(2, WRITE_AND_RUN)]]),
        (libc::SYS_mprotect, vec![vec![has(2, WRITE_AND_RUN)]]),
        (libc::SYS_pkey_mprotect, vec![vec![has(2, WRITE_AND_RUN)]]),
    ];
    for (call, chain) in conditional {
        let chain = chain.into_iter().filter_map(|conditions: Vec<_>| {
            SeccompRule::new(conditions.into_iter().flatten().collect()).ok()
        });
        rules.insert(call, chain.collect());
    }
    rules
}

/// What is answered as by a kernel that does not have it: clone3 keeps its flags where no filter can look, and libc
/// then takes clone.
fn unknown() -> Rules {
    [(libc::SYS_clone3, Vec::new())].into()
}

type Condition = Option<SeccompCondition>;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).ok()
}

fn is(argument: u8, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::Ne, value)
}

/// All of these bits.
fn has(argument: u8, bits: u64) -> Condition {
    condition(argument, SeccompCmpOp::MaskedEq(bits), bits)
}

/// None of these bits.
fn has_not(argument: u8, bits: u64) -> Condition {
    condition(argument, SeccompCmpOp::MaskedEq(bits), 0)
}

/// Sockets that a switch has: control, links, names, devices.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

const WRITE_AND_RUN: u64 = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;

/// asm-generic/ioctls.h has it, libc has not.
const TIOCLINUX: u64 = 0x541c;

/// Other programs, other processes, the kernel itself.
const NEVER: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
];

/// What only this processor has.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// x86-64 kernels may know every call by a second number, with bit 30 set (asm/unistd.h, `__X32_SYSCALL_BIT`), which
/// would pass any list. On other processors there are no such numbers.
const NO_X32: [sock_filter; 4] = [
    // BPF_LD | BPF_W | BPF_ABS: `nr` of struct seccomp_data
    sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
    // BPF_JMP | BPF_JGE | BPF_K
    sock_filter { code: 0x35, jt: 0, jf: 1, k: 0x4000_0000 },
    // BPF_RET | BPF_K
    sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 },
    sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
];

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice, IoSliceMut};

    use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
    use nix::unistd::Pid;

    use super::*;

    fn call(number: i64, arguments: [i64; 4]) -> Option<i32> {
        let [a, b, c, d] = arguments;
        // SAFETY: every call made here is one that the kernel refuses by its number or its flags, or that only
        // makes or maps something; none is given a pointer.
        let result = unsafe { libc::syscall(number, a, b, c, d, -1, 0) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// On a thread of its own, which alone is bound.
    #[test]
    fn what_is_denied_is_refused_and_what_a_switch_does_is_not() {
        let tries = || {
            let mut refused = Vec::new();
            let mut note = |what, got: Option<i32>| refused.push((what, got));
            note("execve", call(libc::SYS_execve, [0; 4]));
            note("unshare", call(libc::SYS_unshare, [0; 4]));
            note("bpf", call(libc::SYS_bpf, [-1, 0, 0, 0]));
            // Of nobody's process.
            note("ptrace", call(libc::SYS_ptrace, [libc::PTRACE_DETACH.into(), 0, 0, 0]));
            note("io_uring", call(libc::SYS_io_uring_setup, [0; 4]));
            // Both are invalid, were they looked at: nothing is made.
            note("a new process", call(libc::SYS_clone, [libc::CLONE_SIGHAND.into(), 0, 0, 0]));
            let namespace = libc::CLONE_THREAD | libc::CLONE_NEWUSER;
            note("a namespace", call(libc::SYS_clone, [namespace.into(), 0, 0, 0]));
            note("TIOCSTI", call(libc::SYS_ioctl, [-1, libc::TIOCSTI as i64, 0, 0]));
            let page = |protection| {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                call(libc::SYS_mmap, [0, 4096, i64::from(protection), i64::from(flags)])
            };
            note("writable code", page(libc::PROT_WRITE | libc::PROT_EXEC));
            note("memory", page(libc::PROT_WRITE | libc::PROT_READ));
            for (what, family, kind) in [
                ("ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET),
                ("inet", libc::AF_INET, libc::SOCK_STREAM),
                ("netlink", libc::AF_NETLINK, libc::SOCK_RAW),
            ] {
                note(what, call(libc::SYS_socket, [family.into(), kind.into(), 0, 0]));
            }
            let (mut to, from) = ([0u8; 8], [7u8; 8]);
            let at = [RemoteIoVec { base: from.as_ptr() as usize, len: from.len() }];
            let errno = |result: nix::Result<usize>| result.err().map(|e| e as i32);
            note("own stack", errno(process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut to)], &at)));
            note(
                "another's",
                errno(process_vm_readv(Pid::from_raw(1), &mut [IoSliceMut::new(&mut to)], &at)),
            );
            note("writing", errno(process_vm_writev(Pid::this(), &[IoSlice::new(&from)], &at)));
            note("a thread", std::thread::Builder::new().spawn(|| ()).err().and_then(|e| e.raw_os_error()));
            refused
        };
        let bound = std::thread::spawn(move || {
            deny().unwrap();
            tries()
        });
        let eperm = Some(libc::EPERM);
        let allowed = ["memory", "inet", "netlink", "own stack", "a thread"];
        for (what, got) in bound.join().unwrap() {
            assert_eq!(got, if allowed.contains(&what) { None } else { eperm }, "{what}");
        }
    }

    #[test]
    fn every_condition_is_one_that_the_compiler_takes() {
        let rules = denied();
        for (call, chains) in [
            (libc::SYS_process_vm_readv, 1),
            (libc::SYS_clone, 1 + NAMESPACES.len()),
            (libc::SYS_socket, 1),
            (libc::SYS_ioctl, 2),
            (libc::SYS_mmap, 1),
            (libc::SYS_mprotect, 1),
            (libc::SYS_pkey_mprotect, 1),
        ] {
            assert_eq!(rules[&call].len(), chains, "{call}");
        }
        // A rule with no condition left would refuse the call altogether.
        assert_eq!([is(0, 1), is_not(1, 1), has(2, 1), has_not(3, 1)].iter().flatten().count(), 4);
    }
}
