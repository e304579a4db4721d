//! The workload of tests of limits: it takes what a limit is to keep it from.
//!
//! `load fill MIB` takes memory, page by page, and `load hold MIB` keeps it; both say `filled` then.
//! `load spawn COUNT` starts processes, `load open COUNT` opens files, and both tell how many they
//! got: `made 9 refused 41 errno 11`.

use std::fs::File;
use std::io::{self, Write};
use std::process::{Child, Command, ExitCode};

const MEBIBYTE: usize = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["fill", mebibytes] => drop(fill(number(mebibytes))),
        ["hold", mebibytes] => {
            let _filled = fill(number(mebibytes));
            loop {
                std::thread::park();
            }
        }
        ["spawn", count] => spawn(number(count)),
        ["open", count] => open(number(count)),
        _ => {
            eprintln!("usage: load fill MIB | load hold MIB | load spawn COUNT | load open COUNT");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

/// Every page is written to: memory that is not costs nothing.
fn fill(mebibytes: usize) -> Vec<Vec<u8>> {
    let filled = (0..mebibytes).map(|_| vec![1; MEBIBYTE]).collect();
    println!("filled");
    filled
}

fn spawn(count: usize) {
    let tries = (0..count).map(|_| Command::new("sleep").arg("1000").spawn());
    for mut child in tell(tries) {
        end(&mut child);
    }
}

fn open(count: usize) {
    tell((0..count).map(|_| File::open("/dev/null")));
}

/// Writes `made N refused N` and the error numbers that came: the same for all, or it is told.
fn tell<T>(tries: impl Iterator<Item = io::Result<T>>) -> Vec<T> {
    let (mut made, mut errors) = (Vec::new(), Vec::new());
    for result in tries {
        match result {
            Ok(one) => made.push(one),
            Err(error) => errors.push(error.raw_os_error()),
        }
    }
    let refused = errors.len();
    errors.dedup();
    let errors: String = errors.iter().map(|e| format!(" errno {}", e.unwrap_or(0))).collect();
    let line = format!("made {} refused {refused}{errors}\n", made.len());
    io::stdout().write_all(line.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    made
}

fn end(child: &mut Child) {
    let _ = child.kill(); // it may have ended
    let _ = child.wait();
}
