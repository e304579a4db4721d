//! Makes the BPF program of a set of rules: a binary search over the ranges of numbers that have one verdict. All of
//! it is `const fn`, so that programs are data of the build.
//!
//! The kernel runs a new filter once for each number, to learn which calls it always allows, and those cost nothing
//! later: a start pays for the program's length and depth, a chain of comparisons twice what a tree costs.

use libc::sock_filter;

use super::calls::{Arch, Call, NEWEST};

/// What a filter does with all calls of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As if there were no filter.
    Allow,
    /// "Operation not permitted".
    Eperm,
    /// As on a kernel without the call.
    Enosys,
}

/// Calls with one verdict for one reason.
#[derive(Debug)]
pub struct Group {
    /// In a few words, as the manual has it.
    pub what: &'static str,
    /// All of them.
    pub calls: &'static [Call],
    /// Not that of all others.
    pub verdict: Verdict,
}

/// A call that depends on the lower half of one argument. The kernel takes no more than that of any of those that
/// are looked at here; memory is out of a filter's reach.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Which.
    pub call: Call,
    /// From 0.
    pub argument: u32,
    /// The bits that matter.
    pub mask: u32,
    /// The values that they may, or may not, have. At least one.
    pub values: &'static [u32],
    /// Which of both.
    pub listed: Listed,
    /// What a refused one gives.
    pub errno: u16,
}

/// What a list of values means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// These and no others.
    Allowed,
    /// All others.
    Refused,
}

/// A filter, as people write it.
#[derive(Debug)]
pub struct Rules {
    /// Verdicts by name.
    pub groups: &'static [&'static [Group]],
    /// Verdicts by argument.
    pub checks: &'static [Check],
    /// Calls that neither names.
    pub otherwise: Verdict,
    /// Numbers that no kernel had when this was written: those past [`NEWEST`], so those of x32, too, which have bit
    /// 30 set.
    pub newer: Verdict,
}

/// Whether a refusal is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Enforce,
    /// It is written to the kernel's log, and the call goes on (SECCOMP_RET_LOG).
    Log,
}

/// One entry for each number up to [`NEWEST`] and one for all after it: a [`Verdict`] as number, or the position of
/// a check behind [`FIRST_CHECK`].
#[derive(Debug, Clone)]
pub struct Table {
    entries: [u8; NUMBERS],
    checks: &'static [Check],
    arch: Arch,
    otherwise: Verdict,
}

const NUMBERS: usize = NEWEST as usize + 2;
/// The verdicts before it are constants.
const FIRST_CHECK: u8 = 3;

impl Table {
    /// Numbers instead of names.
    pub const fn new(rules: &Rules, arch: Arch) -> Table {
        let mut entries = [rules.otherwise as u8; NUMBERS];
        entries[NUMBERS - 1] = rules.newer as u8;
        let mut range = 0;
        while range < arch.unassigned().len() {
            let (mut number, last) = arch.unassigned()[range];
            while number <= last {
                entries[number as usize] = rules.newer as u8;
                number += 1;
            }
            range += 1;
        }
        let mut list = 0;
        while list < rules.groups.len() {
            let mut group = 0;
            while group < rules.groups[list].len() {
                let Group { calls, verdict, .. } = &rules.groups[list][group];
                let mut call = 0;
                while call < calls.len() {
                    enter(&mut entries, &calls[call], arch, *verdict as u8, rules.otherwise);
                    call += 1;
                }
                group += 1;
            }
            list += 1;
        }
        let mut check = 0;
        while check < rules.checks.len() {
            let entry = FIRST_CHECK + check as u8;
            enter(&mut entries, &rules.checks[check].call, arch, entry, rules.otherwise);
            check += 1;
        }
        Table { entries, checks: rules.checks, arch, otherwise: rules.otherwise }
    }

    /// The same without any rule about this call.
    pub fn without(mut self, call: &Call) -> Table {
        if let Some(number) = call.number(self.arch) {
            self.entries[usize::from(number)] = self.otherwise as u8;
        }
        self
    }
}

/// A call with two verdicts does not compile.
const fn enter(
    entries: &mut [u8; NUMBERS],
    call: &Call,
    arch: Arch,
    entry: u8,
    otherwise: Verdict,
) {
    if let Some(number) = call.number(arch) {
        assert!(number <= NEWEST && entries[number as usize] == otherwise as u8);
        entries[number as usize] = entry;
    }
}

/// More than any filter here has; a tree that is larger does not compile.
const MOST: usize = 512;

/// A BPF program.
#[derive(Debug, Clone)]
pub struct Program {
    instructions: [sock_filter; MOST],
    length: usize,
}

/// The instructions before the tree: they check the architecture, and load the number.
const PROLOGUE: usize = 4;
/// `struct seccomp_data`, of a little-endian machine.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

impl Program {
    /// Makes it.
    pub const fn new(table: &Table, mode: Mode) -> Program {
        let (starts, count) = segments(table);
        let ends = PROLOGUE + count - 1;
        let (labels, after) = labels(table, ends);
        let mut program =
            Program { instructions: [stop(libc::SECCOMP_RET_KILL_PROCESS); MOST], length: 0 };
        program.push(load(ARCH));
        program.push(jump(libc::BPF_JEQ, table.arch.audit(), 1, 0));
        // What another instruction set (int 0x80 on x86_64) numbers otherwise.
        program.push(stop(mode.of(libc::SECCOMP_RET_KILL_PROCESS)));
        program.push(load(NUMBER));
        program.tree(&Tree { table, starts, labels }, 0, count);
        assert!(program.length == ends);
        program.push(stop(libc::SECCOMP_RET_ALLOW));
        program.push(stop(mode.refusal(libc::EPERM as u16)));
        program.push(stop(mode.refusal(libc::ENOSYS as u16)));
        let mut check = 0;
        while check < table.checks.len() {
            program.check(&table.checks[check], mode);
            check += 1;
        }
        assert!(program.length == after);
        program
    }

    /// As the kernel takes it.
    pub const fn instructions(&self) -> &[sock_filter] {
        self.instructions.split_at(self.length).0
    }

    /// The same, of a size that is known.
    pub const fn exact<const N: usize>(&self) -> [sock_filter; N] {
        assert!(N == self.length);
        let mut instructions = [stop(libc::SECCOMP_RET_KILL_PROCESS); N];
        instructions.copy_from_slice(self.instructions());
        instructions
    }

    const fn push(&mut self, instruction: sock_filter) {
        self.instructions[self.length] = instruction;
        self.length += 1;
    }

    /// The nodes for the segments `low..high`, each before those of its lower half, which ends before its upper half:
    /// a tree of n segments has n - 1 nodes.
    const fn tree(&mut self, tree: &Tree<'_>, low: usize, high: usize) {
        if high - low == 1 {
            return;
        }
        let middle = low + (high - low) / 2;
        let here = self.length;
        let below = tree.begin(low, middle, here + 1);
        let above = tree.begin(middle, high, here + (middle - low));
        let number = tree.starts[middle] as u32;
        self.push(jump(libc::BPF_JGE, number, distance(here, above), distance(here, below)));
        self.tree(tree, low, middle);
        self.tree(tree, middle, high);
    }

    /// Its own few instructions: the argument, its bits, one comparison for each value.
    const fn check(&mut self, check: &Check, mode: Mode) {
        self.push(load(ARGUMENTS + 8 * check.argument));
        if check.mask != u32::MAX {
            self.push(code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, check.mask));
        }
        let mut left = check.values.len();
        while left > 0 {
            let value = check.values[check.values.len() - left];
            self.push(jump(libc::BPF_JEQ, value, left as u8, 0));
            left -= 1;
        }
        let (allowed, refused) = (stop(libc::SECCOMP_RET_ALLOW), stop(mode.refusal(check.errno)));
        let (unlisted, listed) = match check.listed {
            Listed::Allowed => (refused, allowed),
            Listed::Refused => (allowed, refused),
        };
        self.push(unlisted);
        self.push(listed);
    }
}

impl Mode {
    const fn refusal(self, errno: u16) -> u32 {
        self.of(libc::SECCOMP_RET_ERRNO | errno as u32)
    }

    const fn of(self, action: u32) -> u32 {
        match self {
            Mode::Enforce => action,
            Mode::Log => libc::SECCOMP_RET_LOG,
        }
    }
}

/// What its nodes are made from.
struct Tree<'a> {
    table: &'a Table,
    starts: [u16; NUMBERS],
    labels: [usize; LABELS],
}

impl Tree<'_> {
    /// Where the search in these segments goes on: at their first node, or, in a single one, at its verdict.
    const fn begin(&self, low: usize, high: usize, node: usize) -> usize {
        if high - low > 1 {
            return node;
        }
        self.labels[self.table.entries[self.starts[low] as usize] as usize]
    }
}

/// The first number of each range with one entry, and how many there are.
const fn segments(table: &Table) -> ([u16; NUMBERS], usize) {
    let mut starts = [0; NUMBERS];
    let mut count = 1;
    let mut number = 1;
    while number < NUMBERS {
        if table.entries[number] != table.entries[number - 1] {
            starts[count] = number as u16;
            count += 1;
        }
        number += 1;
    }
    (starts, count)
}

/// As many as entries may differ.
const LABELS: usize = 16;

/// Where each entry's instructions begin, behind the tree, and where the last of them end.
const fn labels(table: &Table, ends: usize) -> ([usize; LABELS], usize) {
    let mut labels = [0; LABELS];
    labels[Verdict::Allow as usize] = ends;
    labels[Verdict::Eperm as usize] = ends + 1;
    labels[Verdict::Enosys as usize] = ends + 2;
    let mut next = ends + FIRST_CHECK as usize;
    let mut check = 0;
    while check < table.checks.len() {
        labels[FIRST_CHECK as usize + check] = next;
        let Check { mask, values, .. } = &table.checks[check];
        next += 3 + values.len() + (*mask != u32::MAX) as usize;
        check += 1;
    }
    (labels, next)
}

/// A jump's, which has eight bits: a filter that outgrows them does not compile.
const fn distance(from: usize, to: usize) -> u8 {
    let distance = to - from - 1;
    assert!(distance <= u8::MAX as usize);
    distance as u8
}

const fn load(offset: u32) -> sock_filter {
    code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

const fn stop(action: u32) -> sock_filter {
    code(libc::BPF_RET | libc::BPF_K, action)
}

const fn code(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(how: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | how | libc::BPF_K) as u16, jt: yes, jf: no, k }
}
