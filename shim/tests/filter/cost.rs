//! What a filter adds to a start, and to each call after it. The figures are in `docs/BENCHMARKS.md`.

use job_shim::filter::calls::Arch;
use job_shim::filter::{Filter, is_available};
use libc::sock_filter;

use crate::child::cost;
use crate::interpreter::{Call, run};

/// Medians of installing and of a call, in nanoseconds.
fn medians(program: Option<&[sock_filter]>) -> (u64, u64) {
    let (mut installs, mut calls): (Vec<_>, Vec<_>) = (0..200).map(|_| cost(program)).unzip();
    installs.sort_unstable();
    calls.sort_unstable();
    (installs[100], calls[100])
}

/// The same refusals as a chain of comparisons, which is what libraries make by default.
fn chain(tree: &[sock_filter]) -> Vec<sock_filter> {
    let instruction = |code, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let stop = |k| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut chain = tree[..4].to_vec();
    for number in 0..=1024 {
        let call = Call { number, arch: Arch::NATIVE.audit(), ..Call::default() };
        let answer = run(tree, call).0;
        if answer != libc::SECCOMP_RET_ALLOW && number < 470 && !unassigned(number) {
            chain.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number));
            chain.push(stop(answer));
        }
    }
    chain.push(stop(libc::SECCOMP_RET_ALLOW));
    chain
}

fn unassigned(number: u32) -> bool {
    let ranges = Arch::NATIVE.unassigned();
    ranges.iter().any(|(first, last)| (u32::from(*first)..=u32::from(*last)).contains(&number))
}

#[test]
fn a_tree_is_installed_faster_than_a_chain() {
    if !is_available() {
        eprintln!("skipped: this kernel has no system-call filters");
        return;
    }
    let (_, plain) = medians(None);
    eprintln!("without a filter: {plain} ns for a call");
    for filter in [Filter::Default, Filter::Strict] {
        let tree = filter.program(false).unwrap();
        let chain = chain(tree);
        let (install, call) = medians(Some(tree));
        let (slower, _) = medians(Some(&chain));
        eprintln!(
            "{filter:?}: {} instructions, {} us to install, {call} ns for a call; as a chain {} \
             instructions, {} us",
            tree.len(),
            install / 1000,
            chain.len(),
            slower / 1000,
        );
        assert!(install < slower);
    }
}
