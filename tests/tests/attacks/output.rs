//! Readers of output, by the thousand, or of what is hard to find.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::time::Duration;

use job_shim::index::{Entry, Stream};
use job_tests::attack::{self, Attack, Attacker, form};
use job_tests::{Env, until};

/// Jobs that have said something and go on, one after the other.
fn talking(env: &Env, count: usize) -> String {
    let script = ["start", "--", "sh", "-c", "echo here; exec sleep 600"];
    let ids: Vec<_> = (0..count).map(|_| env.jobctl("mallory", &script).id()).collect();
    for id in &ids {
        until("it has said it", || env.stdout_log(id).ends_with('\n').then_some(()));
    }
    ids.join(",")
}

/// Item 5: a set of descriptors for each job that is read, whoever reads, and no more sets than there are
/// descriptors for.
#[test]
fn readers_of_many_jobs_leave_descriptors_for_others() {
    let env = Env::builder().descriptors(256).start();
    let ids = talking(&env, 40);
    let attack = Attack::new("5: 600 streams of 40 jobs, with 256 descriptors");
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={ids}"), "streams=600", "hold_ms=1000"];
        Attacker::start(&env, "mallory", "readers", &words).finish()
    });
    assert_eq!(verdict.seen["held"], 600, "{verdict:?}");
    verdict.assert();
}

/// Item 5: what is open is bounded for each identity, and what is refused can be had again later.
#[test]
fn readers_of_one_job_are_bounded_and_others_go_on() {
    let env = Env::start();
    let id = talking(&env, 1);
    let attack = Attack::new("5: 1,100 streams of one job");
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={id}"), "streams=1100", "hold_ms=500"];
        Attacker::start(&env, "mallory", "readers", &words).finish()
    });
    assert_eq!((&verdict.seen["held"], &verdict.seen["refused"]), (&1024.into(), &76.into()));
    assert_eq!(verdict.seen["codes"], serde_json::json!([8]), "RESOURCE_EXHAUSTED alone");
    assert!(verdict.broker.descriptors < 150, "{verdict:?}");
    verdict.assert();
    let again = ["logs", &id];
    until("there is a place again", || {
        (env.jobctl("mallory", &again).out() == "here\n").then_some(())
    });
}

/// Item 5: the budget of output, `jobs/output/readers.rs`.
#[test]
fn readers_that_take_everything_and_read_nothing_cost_a_bounded_amount() {
    let env = Env::start();
    let id = env.jobctl("mallory", &["start", "--", &env.oracle(), "random", "67108864", "7"]).id();
    env.jobctl("mallory", &["wait", &id]).expect(0);
    let attack = Attack::new("5: 1,000 streams of 64 MiB that nobody reads").peak_mib(100);
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={id}"), "streams=1000", "hold_ms=1000"];
        Attacker::start(&env, "mallory", "stalled", &words).finish()
    });
    assert_eq!(verdict.seen["streams"], 1000);
    verdict.assert();
}

/// Item 4: whoever reads one stream does not walk over the entries of the other.
#[test]
fn a_search_in_an_index_of_millions_of_entries_keeps_nobody_waiting() {
    let env = Env::start();
    let id = talking(&env, 1);
    let entries = form(2_000_000, 20_000_000);
    grow(&env, &id, entries);
    let attack =
        Attack::new("4: stderr in an index of millions of entries of stdout").peak_mib(100);
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={id}"), "calls=400", "at_once=20"];
        Attacker::start(&env, "mallory", "searches", &words).finish()
    });
    assert_eq!(verdict.seen["chunks"], 400, "{verdict:?}");
    verdict.assert();
}

/// One identity has one compression at a time, and all together half of the processors.
#[test]
fn readers_who_want_it_compressed_leave_processors_to_others() {
    let env = Env::start();
    let id = env.jobctl("mallory", &["start", "--", &env.oracle(), "random", "67108864", "7"]).id();
    env.jobctl("mallory", &["wait", "--until", "end", &id]).expect(0);
    let attack = Attack::new("3: 200 streams of 64 MiB that are to be compressed").peak_mib(100);
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={id}"), "streams=200", "hold_ms=3000"];
        Attacker::start(&env, "mallory", "compressed", &words).finish()
    });
    assert_eq!(verdict.seen["failed"], 0, "{verdict:?}");
    assert!(verdict.seen["chunks"].as_u64() > Some(0), "{verdict:?}");
    assert!(verdict.broker.threads < 100, "no thread for each of them: {verdict:?}");
    verdict.assert();
}

/// Item 4: a tail goes with its call, and searches do not take all processors.
#[test]
fn tails_of_one_long_line_go_with_their_calls() {
    let env = Env::start();
    let bytes = form(96, 1024) << 20;
    let script = format!("head -c {bytes} /dev/zero; exec sleep 600");
    let id = env.jobctl("mallory", &["start", "--", "sh", "-c", &script]).id();
    let log = env.job_dir(&id).join("stdout.log");
    let is_there = || fs::metadata(&log).is_ok_and(|log| log.len() == bytes).then_some(());
    until("its output is there", is_there);
    let attack = Attack::new("4: 200 tails of one line, given up after 0.2 s").peak_mib(100);
    let verdict = attack::measure(&env, &attack, || {
        let words = [&format!("ids={id}"), "streams=200", "hold_ms=200"];
        Attacker::start(&env, "mallory", "tails", &words).finish()
    });
    assert_eq!(verdict.seen["failed"], 0, "{verdict:?}");
    assert!(verdict.broker.threads < 50, "no thread for each of them: {verdict:?}");
    verdict.assert();
    let before = cpu(&env);
    std::thread::sleep(Duration::from_millis(500)); // the window in which nothing is to be done
    let used = cpu(&env) - before;
    assert!(used < Duration::from_millis(250), "it goes on for nobody: {used:?}");
}

/// An index of so many entries in the place of a job's that says nothing more: one byte each, and the
/// last of them of stderr.
fn grow(env: &Env, id: &str, entries: u64) {
    let dir = env.job_dir(id);
    let index = File::options().write(true).open(dir.join("output.idx")).unwrap();
    let mut index = BufWriter::with_capacity(1 << 20, index);
    for n in 1..entries {
        let entry = Entry { time_ns: n, ends: [n, 0], stream: Stream::Stdout };
        index.write_all(&entry.to_bytes()).unwrap();
    }
    let last = Entry { time_ns: entries, ends: [entries - 1, 1], stream: Stream::Stderr };
    index.write_all(&last.to_bytes()).unwrap();
    index.flush().unwrap();
    for (name, length) in [("stdout.log", entries - 1), ("stderr.log", 1)] {
        let log = File::options().write(true).open(dir.join(name)).unwrap();
        log.set_len(length).unwrap();
    }
}

/// What the broker has used.
fn cpu(env: &Env) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", env.broker().pid())).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
