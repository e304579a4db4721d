//! The kernel's part: runs a BPF program on one call. It knows the few instructions that filters here are made of.

use libc::sock_filter;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) arch: u32,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..64 => {
                let argument = self.arguments[(offset as usize - 16) / 8];
                match offset % 8 {
                    0 => argument as u32,
                    4 => (argument >> 32) as u32,
                    _ => panic!("{offset} is not aligned"),
                }
            }
            _ => panic!("nothing is at {offset}"),
        }
    }
}

/// What a program answers, and how many instructions that took.
pub(crate) fn run(program: &[sock_filter], call: Call) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0, 0, 0);
    loop {
        let instruction = program[at];
        steps += 1;
        at += 1;
        let skip = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
        match u32::from(instruction.code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                accumulator = call.word(instruction.k);
            }
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                accumulator &= instruction.k;
            }
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => {
                at += skip(accumulator >= instruction.k);
            }
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => {
                at += skip(accumulator == instruction.k);
            }
            code if code == libc::BPF_RET | libc::BPF_K => return (instruction.k, steps),
            code => panic!("no instruction has the code {code:#x}"),
        }
    }
}
