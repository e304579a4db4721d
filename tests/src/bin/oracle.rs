//! The workload of the end-to-end tests, see `job_tests::oracle`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use job_tests::oracle::{Random, line};

const SECOND_RUN: u8 = 99;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if !is_first_run() {
        return ExitCode::from(SECOND_RUN);
    }
    let written = match arguments.as_slice() {
        ["lines", count] => lines(number(count), 0),
        ["lines", count, pause] => lines(number(count), number(pause)),
        ["random", bytes, seed] => random(number(bytes), number(seed)),
        _ => {
            eprintln!("usage: oracle lines COUNT [PAUSE_MS] | oracle random BYTES SEED");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = written {
        eprintln!("oracle: {error}");
        return ExitCode::from(3);
    }
    ExitCode::from(std::env::var("ORACLE_EXIT").map_or(0, |text| number(&text) as u8))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn is_first_run() -> bool {
    let (Ok(dir), Ok(job)) = (std::env::var("ORACLE_MARK"), std::env::var("JOB_ID")) else {
        return true;
    };
    File::create_new(Path::new(&dir).join(job)).is_ok()
}

/// Each line is one write(2) to each stream.
fn lines(count: u64, pause_ms: u64) -> io::Result<()> {
    let (mut out, mut err) = (raw(1)?, raw(2)?);
    for n in 0..count {
        out.write_all(line('o', n).as_bytes())?;
        err.write_all(line('e', n).as_bytes())?;
        if pause_ms > 0 {
            std::thread::sleep(Duration::from_millis(pause_ms)); // the rate that was asked for
        }
    }
    Ok(())
}

fn random(bytes: u64, seed: u64) -> io::Result<()> {
    let (mut out, mut source) = (raw(1)?, Random::new(seed).take(bytes));
    let mut piece = vec![0; 64 << 10];
    loop {
        match source.read(&mut piece)? {
            0 => return Ok(()),
            count => out.write_all(&piece[..count])?,
        }
    }
}

/// Past the buffer of std, whose stdout flushes by lines.
fn raw(descriptor: i32) -> io::Result<File> {
    File::options().append(true).open(format!("/proc/self/fd/{descriptor}"))
}
