//! Filters in the classic BPF of McCanne and Jacobson, as libpcap compiles them (`tcpdump -ddd`; net/bpf.h,
//! linux/filter.h). Whoever asks for a capture sends a program; it is checked once, turned into operations of which
//! each is known, and run here: jumps go forward only, so that it ends, and every load is bounded by the frame.

use std::fmt;

/// A program that is sound: it ends, and touches nothing but the frame and its own sixteen words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program(Box<[Op]>);

/// Why a program is not run. Instructions are counted from 0, as `tcpdump -d` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// None at all, or more instructions than [`MAX_LEN`].
    Length(usize),
    Opcode(usize, u32),
    /// A jump to outside of the program.
    Jump(usize),
    /// A memory slot beyond the sixteen.
    Slot(usize, u32),
    /// A division by a constant 0, or a shift by 32 or more.
    Operand(usize, u32),
    /// The last instruction returns nothing.
    End,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(len) => write!(f, "a program of {len} instructions (1 to {MAX_LEN} are taken)"),
            Self::Opcode(at, code) => write!(f, "instruction {at}: unknown opcode {code:#x}"),
            Self::Jump(at) => write!(f, "instruction {at}: a jump out of the program"),
            Self::Slot(at, slot) => write!(f, "instruction {at}: memory slot {slot} (there are 0 to 15)"),
            Self::Operand(at, k) => write!(f, "instruction {at}: {k} can neither divide nor shift"),
            Self::End => f.write_str("the last instruction is no return"),
        }
    }
}

impl Program {
    /// Instructions of `[code, jt, jf, k]`.
    pub fn checked(instructions: &[[u32; 4]]) -> Result<Self, Refusal> {
        let len = instructions.len();
        if !(1..=MAX_LEN).contains(&len) {
            return Err(Refusal::Length(len));
        }
        let decode = |(at, instruction): (usize, &[u32; 4])| Op::checked(at, len, *instruction);
        let ops: Box<[Op]> = instructions.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        match ops.last() {
            Some(Op::Return(_)) => Ok(Self(ops)),
            _ => Err(Refusal::End),
        }
    }

    /// How many bytes of the frame in `parts` are wanted; 0: it is not. One that is shorter than a load wants it to be
    /// is not.
    pub fn run(&self, parts: &[&[u8]]) -> u32 {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut memory = [0_u32; SLOTS];
        let mut at = 0;
        while let Some(op) = self.0.get(at) {
            at += 1;
            match *op {
                Op::Load(size, from) => {
                    let from = match from {
                        From::Absolute(k) => Some(k),
                        From::Indirect(k) => x.checked_add(k),
                    };
                    let Some(value) = from.and_then(|from| load(parts, from, size)) else { return 0 };
                    a = value;
                }
                Op::HeaderLen(k) => {
                    let Some(byte) = load(parts, k, 1) else { return 0 };
                    x = (byte & 0xf) << 2;
                }
                Op::LoadA(value) => a = value.read(parts, &memory),
                Op::LoadX(value) => x = value.read(parts, &memory),
                Op::Store(slot) => memory[slot] = a,
                Op::StoreX(slot) => memory[slot] = x,
                Op::Alu(operation, operand) => {
                    let Some(value) = operation.of(a, operand.unwrap_or(x)) else { return 0 };
                    a = value;
                }
                Op::Negate => a = a.wrapping_neg(),
                Op::Skip(count) => at += count,
                Op::Branch { test, operand, yes, no } => {
                    at += if test.of(a, operand.unwrap_or(x)) { yes } else { no };
                }
                Op::Return(value) => return value.unwrap_or(a),
                Op::ToX => x = a,
                Op::ToA => a = x,
            }
        }
        // Not reached: each jump was checked, and the last operation returns.
        0
    }
}

/// BPF_MAXINSNS, linux/bpf_common.h.
pub const MAX_LEN: usize = 4096;
/// BPF_MEMWORDS.
const SLOTS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// So many bytes to A.
    Load(u32, From),
    /// Four times the low half of a byte to X: an IPv4 header's length.
    HeaderLen(u32),
    LoadA(Value),
    LoadX(Value),
    Store(usize),
    StoreX(usize),
    /// With a constant or, `None`, X.
    Alu(Alu, Option<u32>),
    Negate,
    Skip(usize),
    Branch {
        test: Test,
        operand: Option<u32>,
        yes: usize,
        no: usize,
    },
    /// A constant or, `None`, A.
    Return(Option<u32>),
    ToX,
    ToA,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum From {
    Absolute(u32),
    /// Behind X.
    Indirect(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Constant(u32),
    Slot(usize),
    /// The frame's length.
    Length,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    ShiftLeft,
    ShiftRight,
    Mod,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Test {
    Equal,
    Greater,
    AtLeast,
    AnyBit,
}

impl Op {
    fn checked(at: usize, len: usize, [code, jt, jf, k]: [u32; 4]) -> Result<Self, Refusal> {
        let slot = || usize::try_from(k).ok().filter(|slot| *slot < SLOTS).ok_or(Refusal::Slot(at, k));
        // From the next instruction on.
        let jump =
            |by: u32| usize::try_from(by).ok().filter(|by| *by < len - at - 1).ok_or(Refusal::Jump(at));
        let alu = |alu: Alu| match (code & 0x08, alu) {
            (0, Alu::Div | Alu::Mod) if k == 0 => Err(Refusal::Operand(at, k)),
            (0, Alu::ShiftLeft | Alu::ShiftRight) if k >= 32 => Err(Refusal::Operand(at, k)),
            (0, _) => Ok(Self::Alu(alu, Some(k))),
            _ => Ok(Self::Alu(alu, None)),
        };
        let branch = |test: Test| {
            let operand = (code & 0x08 == 0).then_some(k);
            Ok(Self::Branch { test, operand, yes: jump(jt)?, no: jump(jf)? })
        };
        match code {
            0x20 => Ok(Self::Load(4, From::Absolute(k))),
            0x28 => Ok(Self::Load(2, From::Absolute(k))),
            0x30 => Ok(Self::Load(1, From::Absolute(k))),
            0x40 => Ok(Self::Load(4, From::Indirect(k))),
            0x48 => Ok(Self::Load(2, From::Indirect(k))),
            0x50 => Ok(Self::Load(1, From::Indirect(k))),
            0xb1 => Ok(Self::HeaderLen(k)),
            0x00 => Ok(Self::LoadA(Value::Constant(k))),
            0x60 => Ok(Self::LoadA(Value::Slot(slot()?))),
            0x80 => Ok(Self::LoadA(Value::Length)),
            0x01 => Ok(Self::LoadX(Value::Constant(k))),
            0x61 => Ok(Self::LoadX(Value::Slot(slot()?))),
            0x81 => Ok(Self::LoadX(Value::Length)),
            0x02 => Ok(Self::Store(slot()?)),
            0x03 => Ok(Self::StoreX(slot()?)),
            0x04 | 0x0c => alu(Alu::Add),
            0x14 | 0x1c => alu(Alu::Sub),
            0x24 | 0x2c => alu(Alu::Mul),
            0x34 | 0x3c => alu(Alu::Div),
            0x44 | 0x4c => alu(Alu::Or),
            0x54 | 0x5c => alu(Alu::And),
            0x64 | 0x6c => alu(Alu::ShiftLeft),
            0x74 | 0x7c => alu(Alu::ShiftRight),
            0x94 | 0x9c => alu(Alu::Mod),
            0xa4 | 0xac => alu(Alu::Xor),
            0x84 => Ok(Self::Negate),
            0x05 => Ok(Self::Skip(jump(k)?)),
            0x15 | 0x1d => branch(Test::Equal),
            0x25 | 0x2d => branch(Test::Greater),
            0x35 | 0x3d => branch(Test::AtLeast),
            0x45 | 0x4d => branch(Test::AnyBit),
            0x06 => Ok(Self::Return(Some(k))),
            0x16 => Ok(Self::Return(None)),
            0x07 => Ok(Self::ToX),
            0x87 => Ok(Self::ToA),
            _ => Err(Refusal::Opcode(at, code)),
        }
    }
}

impl Value {
    fn read(self, parts: &[&[u8]], memory: &[u32; SLOTS]) -> u32 {
        match self {
            Self::Constant(k) => k,
            Self::Slot(slot) => memory[slot],
            Self::Length => parts.iter().map(|part| part.len()).sum::<usize>() as u32,
        }
    }
}

impl Alu {
    /// `None`: a division by zero, which ends the program.
    fn of(self, a: u32, b: u32) -> Option<u32> {
        Some(match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div => a.checked_div(b)?,
            Self::Mod => a.checked_rem(b)?,
            Self::Or => a | b,
            Self::And => a & b,
            Self::Xor => a ^ b,
            // As libpcap's own interpreter has it.
            Self::ShiftLeft => a.checked_shl(b).unwrap_or(0),
            Self::ShiftRight => a.checked_shr(b).unwrap_or(0),
        })
    }
}

impl Test {
    fn of(self, a: u32, b: u32) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Greater => a > b,
            Self::AtLeast => a >= b,
            Self::AnyBit => a & b != 0,
        }
    }
}

/// `size` bytes from `at` on, the first highest; `None` when the frame ends before.
fn load(parts: &[&[u8]], at: u32, size: u32) -> Option<u32> {
    let (mut at, mut left) = (usize::try_from(at).ok()?, size);
    let mut value = 0;
    for part in parts {
        while left > 0
            && let Some(byte) = part.get(at)
        {
            value = value << 8 | u32::from(*byte);
            (at, left) = (at + 1, left - 1);
        }
        if left == 0 {
            return Some(value);
        }
        at -= part.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `tcpdump -ddd -y EN10MB ip proto 17 and dst port 53`, but for the fragments.
    const DNS: [[u32; 4]; 9] = [
        [0x28, 0, 0, 12],
        [0x15, 0, 6, 0x0800],
        [0x30, 0, 0, 23],
        [0x15, 0, 4, 17],
        [0xb1, 0, 0, 14],
        [0x48, 0, 0, 16],
        [0x15, 0, 1, 53],
        [0x06, 0, 0, 262_144],
        [0x06, 0, 0, 0],
    ];

    fn packet(port: u16) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        bytes.extend([0x08, 0x00, 0x46]);
        bytes.extend([0; 8]);
        bytes.push(17);
        bytes.resize(14 + 24, 0);
        bytes.extend([0x30, 0x39]);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn a_program_says_what_it_was_compiled_for_whole_or_in_parts() {
        let program = Program::checked(&DNS).unwrap();
        for (port, wanted) in [(53, 262_144), (54, 0)] {
            let bytes = packet(port);
            assert_eq!(program.run(&[&bytes]), wanted);
            for at in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(at);
                assert_eq!(program.run(&[head, &[], tail]), wanted, "cut at {at}");
                assert_eq!(program.run(&[head]), if at == bytes.len() { wanted } else { 0 }, "ends at {at}");
            }
        }
    }

    #[test]
    fn what_is_not_sound_is_refused_by_name() {
        let end = [0x06, 0, 0, 1];
        for (program, refusal) in [
            (vec![], Refusal::Length(0)),
            (vec![end; MAX_LEN + 1], Refusal::Length(MAX_LEN + 1)),
            (vec![[0x21, 0, 0, 0], end], Refusal::Opcode(0, 0x21)),
            (vec![[0x1_0006, 0, 0, 0], end], Refusal::Opcode(0, 0x1_0006)),
            (vec![[0x05, 0, 0, 1], end], Refusal::Jump(0)),
            (vec![[0x05, 0, 0, u32::MAX], end], Refusal::Jump(0)),
            (vec![[0x15, 0, 1, 0], end], Refusal::Jump(0)),
            (vec![[0x15, 300, 0, 0], end], Refusal::Jump(0)),
            (vec![[0x02, 0, 0, 16], end], Refusal::Slot(0, 16)),
            (vec![[0x61, 0, 0, 99], end], Refusal::Slot(0, 99)),
            (vec![[0x34, 0, 0, 0], end], Refusal::Operand(0, 0)),
            (vec![[0x94, 0, 0, 0], end], Refusal::Operand(0, 0)),
            (vec![[0x64, 0, 0, 32], end], Refusal::Operand(0, 32)),
            (vec![end, [0x00, 0, 0, 0]], Refusal::End),
        ] {
            assert_eq!(Program::checked(&program), Err(refusal));
        }
    }

    #[test]
    fn a_division_by_zero_and_a_load_far_away_end_the_program() {
        let end = [0x06, 0, 0, 1];
        for first in [[0x3c, 0, 0, 0], [0x9c, 0, 0, 0], [0x20, 0, 0, u32::MAX], [0x40, 0, 0, u32::MAX]] {
            let load_x = [0x01, 0, 0, if first[0] == 0x40 { 1 } else { 0 }];
            assert_eq!(Program::checked(&[load_x, first, end]).unwrap().run(&[&[7; 60]]), 0, "{first:x?}");
        }
    }

    fn instruction() -> impl Strategy<Value = [u32; 4]> {
        let known = proptest::sample::select(vec![
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x0c, 0x14, 0x15, 0x1c, 0x1d, 0x20, 0x24, 0x25,
            0x28, 0x2c, 0x2d, 0x30, 0x34, 0x35, 0x3c, 0x3d, 0x40, 0x44, 0x45, 0x48, 0x4c, 0x4d, 0x50, 0x54,
            0x5c, 0x60, 0x61, 0x64, 0x6c, 0x74, 0x7c, 0x80, 0x81, 0x84, 0x87, 0x94, 0x9c, 0xa4, 0xac, 0xb1,
            0x16,
        ]);
        let code = prop_oneof![30 => known, 1 => any::<u32>()];
        let k = prop_oneof![8 => 0..20_u32, 1 => any::<u32>()];
        (code, 0..4_u32, 0..4_u32, k).prop_map(|(code, jt, jf, k)| [code, jt, jf, k])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn any_program_is_refused_or_harmless(
            program in proptest::collection::vec(instruction(), 0..30),
            frame in proptest::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let program = [&program[..], &[[0x06, 0, 0, 1]]].concat();
            if let Ok(program) = Program::checked(&program) {
                let (head, tail) = frame.split_at(cut.index(frame.len() + 1));
                prop_assert_eq!(program.run(&[&frame]), program.run(&[head, tail]));
            }
        }
    }
}
