//! The workload of the end-to-end tests, see `job_tests::oracle`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use job_tests::oracle::{Random, line};

const SECOND_RUN: u8 = 99;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mark = mark();
    if mark.as_ref().is_some_and(|mark| File::create_new(mark).is_err()) {
        return ExitCode::from(SECOND_RUN);
    }
    let written = match arguments.as_slice() {
        ["lines", count] => lines(number(count), 0),
        ["lines", count, pause] => lines(number(count), number(pause)),
        ["until", file, pause] => lines_until(Path::new(file), number(pause), mark.as_deref()),
        ["random", bytes, seed] => random(number(bytes), number(seed)),
        _ => {
            eprintln!(
                "usage: oracle lines COUNT [PAUSE_MS] | until FILE PAUSE_MS | random BYTES SEED"
            );
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

/// What a first run makes, and a second one finds.
fn mark() -> Option<PathBuf> {
    let (dir, job) = (std::env::var("ORACLE_MARK").ok()?, std::env::var("JOB_ID").ok()?);
    Some(Path::new(&dir).join(job))
}

fn lines(count: u64, pause_ms: u64) -> io::Result<()> {
    let (mut out, mut err) = (raw(1)?, raw(2)?);
    (0..count).try_for_each(|n| pair(&mut out, &mut err, n, pause_ms))
}

fn lines_until(file: &Path, pause_ms: u64, mark: Option<&Path>) -> io::Result<()> {
    let (mut out, mut err, mut count) = (raw(1)?, raw(2)?, 0);
    while !file.exists() {
        pair(&mut out, &mut err, count, pause_ms)?;
        count += 1;
    }
    mark.map_or(Ok(()), |mark| std::fs::write(mark, count.to_string()))
}

/// Each line is one write(2) to each stream.
fn pair(out: &mut File, err: &mut File, number: u64, pause_ms: u64) -> io::Result<()> {
    out.write_all(line('o', number).as_bytes())?;
    err.write_all(line('e', number).as_bytes())?;
    if pause_ms > 0 {
        std::thread::sleep(Duration::from_millis(pause_ms)); // the rate that was asked for
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
