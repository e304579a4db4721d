//! A broker with one job: starts the real shim and speaks its language.
#![allow(unsafe_code, reason = "descriptors can be placed only between fork and exec")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use job_shim::frame::{self, Reader};
use job_shim::index::{ENTRY, Entry};
use job_shim::launch::{CONTROL_FD, Launch, OutputPolicy};
use job_shim::record::{ExitFile, FILE_LENGTH};
use job_shim::wire::{
    BrokerHello, Ended, Exited, Failed, FromShim, Input, InputAck, Limits, Progress, ShimHello,
    Signal, Source, Started, Stop, ToShim, Watch,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{self, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use nix::unistd::Pid;

use crate::host::{Host, TIMEOUT};

pub(crate) const NOBODY: u32 = 65534;
pub(crate) const SHIM: u32 = 61_180;

/// A job that runs a shell script as nobody.
pub(crate) fn script(text: &str) -> Launch {
    program(&["/bin/sh", "-c", text])
}

pub(crate) fn program(argv: &[&str]) -> Launch {
    Launch {
        job: [1; 16],
        nonce: [2; 16],
        boot_id: [3; 16],
        argv: argv.iter().map(|s| s.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec()],
        working_directory: b"/".to_vec(),
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![],
        shim_uid: SHIM,
        shim_gid: SHIM,
        stdin: false,
        limits: Limits::default(),
        rlimits: vec![],
        stop_signal: 15,
        stop_timeout_ms: 10_000,
        leftover_grace_ms: 0,
        output_policy: OutputPolicy::Discard,
        program: None,
        isolation: None,
        root: None,
    }
}

/// A shim and the connection with it.
pub(crate) struct Shim {
    pub(crate) host: Host,
    pub(crate) process: Child,
    pub(crate) wire: Wire,
}

impl Shim {
    /// Born; its next word is Hello.
    pub(crate) fn spawn(host: Host, launch: &Launch) -> Shim {
        Shim::spawn_with(host, launch, vec![])
    }

    /// The same, with the descriptors of a checked program and of its script.
    pub(crate) fn spawn_with(host: Host, launch: &Launch, program: Vec<OwnedFd>) -> Shim {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let memory = File::from(memfd_create("launch", MFdFlags::MFD_CLOEXEC).unwrap());
        (&memory).write_all(&launch.to_bytes()).unwrap();
        let mut descriptors: Vec<OwnedFd> = vec![
            theirs.into(),
            File::open(host.state()).unwrap().into(),
            File::open(host.work()).unwrap().into(),
            bound(&host),
            memory.into(),
        ];
        descriptors.extend(program);
        let process = spawn_with(&host, descriptors);
        Shim { host, process, wire: Wire::new(ours) }
    }

    /// Told to run, and running.
    pub(crate) fn start(host: Host, launch: &Launch) -> Shim {
        let mut shim = Shim::spawn(host, launch);
        shim.hello();
        shim.wire.send(&ToShim::Go);
        shim.started();
        shim
    }

    pub(crate) fn hello(&mut self) -> ShimHello {
        match self.wire.next() {
            Some(FromShim::Hello(hello)) => *hello,
            other => panic!("no Hello but {other:?}"),
        }
    }

    pub(crate) fn started(&mut self) -> Started {
        match self.wire.next() {
            Some(FromShim::Started(started)) => started,
            other => panic!("no Started but {other:?}"),
        }
    }

    pub(crate) fn failed(&mut self) -> Failed {
        match self.wire.next() {
            Some(FromShim::Failed(failed)) => failed,
            other => panic!("no Failed but {other:?}"),
        }
    }

    pub(crate) fn exited(&mut self) -> Exited {
        self.wire.find(|message| match message {
            FromShim::Exited(exited) => Some(exited),
            _ => None,
        })
    }

    pub(crate) fn ended(&mut self) -> Ended {
        self.wire.find(|message| match message {
            FromShim::Ended(ended) => Some(ended),
            _ => None,
        })
    }

    pub(crate) fn ack(&mut self) -> InputAck {
        self.wire.find(|message| match message {
            FromShim::InputAck(ack) => Some(ack),
            _ => None,
        })
    }

    /// Watches until this is true.
    pub(crate) fn watch(&mut self, mut enough: impl FnMut(&Progress) -> bool) -> Progress {
        let mut seen = Progress::default();
        while !enough(&seen) {
            self.wire.send(&ToShim::Watch(Watch { seen }));
            seen = self.wire.find(|message| match message {
                FromShim::Progress(progress) => Some(progress),
                _ => None,
            });
        }
        seen
    }

    pub(crate) fn stop(&mut self, grace_ms: u64) {
        self.wire.send(&ToShim::Stop(Stop { grace_ms, source: Source::User, by: "ann".into() }));
    }

    pub(crate) fn signal(&mut self, number: i32) {
        let signal = Signal { number, source: Source::Admin, by: "bob".into() };
        self.wire.send(&ToShim::Signal(signal));
    }

    /// Gives it other limits, and waits for its answer.
    pub(crate) fn limit(&mut self, limits: Limits) {
        self.wire.send(&ToShim::Limits(limits));
        let answer = self.wire.find(|message| match message {
            FromShim::Limits(limits) => Some(limits),
            _ => None,
        });
        assert_eq!(answer, limits);
    }

    /// Its next word is that a limit of its own ends it.
    pub(crate) fn stopping(&mut self) {
        assert_eq!(self.wire.next(), Some(FromShim::Stopping));
    }

    pub(crate) fn input(&mut self, offset: u64, data: &[u8], end: bool) {
        self.wire.send(&ToShim::Input(Input { offset, data: data.into(), end }));
    }

    /// Another connection, which says this.
    pub(crate) fn connect(&self, hello: BrokerHello) -> Wire {
        let mut wire = self.connect_silently();
        wire.send(&ToShim::Hello(hello));
        wire
    }

    /// Another connection, which says nothing.
    pub(crate) fn connect_silently(&self) -> Wire {
        Wire::new(UnixStream::connect(self.host.state().join("socket")).unwrap())
    }

    /// A signal to the shim itself.
    pub(crate) fn kill(&self, signal: signal::Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }

    /// The shim has left.
    pub(crate) fn gone(&mut self) {
        assert!(self.wire.next().is_none(), "it says no more");
        self.process.wait().unwrap();
    }

    /// The shim has left, with this outcome and all its output on record.
    pub(crate) fn exit_file(&mut self) -> ExitFile {
        self.process.wait().unwrap();
        let bytes = fs::read(self.host.state().join("exit")).unwrap();
        assert_eq!(bytes.len(), FILE_LENGTH);
        ExitFile::from_bytes(&bytes, &[3; 16])
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.file("stdout.log")).into_owned()
    }

    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.host.state().join(name)).unwrap()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let bytes = self.file("output.idx");
        assert_eq!(bytes.len() % ENTRY, 0);
        bytes.as_chunks().0.iter().map(|entry| Entry::from_bytes(entry).unwrap()).collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One connection.
pub(crate) struct Wire {
    stream: UnixStream,
    reader: Reader<FromShim>,
}

impl Wire {
    fn new(stream: UnixStream) -> Wire {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Wire { stream, reader: Reader::default() }
    }

    pub(crate) fn send(&mut self, message: &ToShim) {
        let mut bytes = Vec::new();
        frame::write(message, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next word; `None` once the shim has closed.
    pub(crate) fn next(&mut self) -> Option<FromShim> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.reader.next_message().unwrap() {
                return Some(message);
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.reader.push(&bytes[..length]),
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => panic!("the shim says nothing: {e}"),
            }
        }
    }

    /// Closes this side.
    pub(crate) fn hang_up(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends this again and again and never reads.
    pub(crate) fn send_until_closed(&mut self, message: &ToShim) {
        let mut bytes = Vec::new();
        frame::write(message, &mut bytes);
        while self.stream.write_all(&bytes).is_ok() {}
    }

    /// Whether it ends, whatever it says before.
    pub(crate) fn find_end(&mut self) -> bool {
        while self.next().is_some() {}
        true
    }

    /// The next word of a kind; others are passed over.
    pub(crate) fn find<T>(&mut self, mut kind: impl FnMut(FromShim) -> Option<T>) -> T {
        loop {
            let message = self.next().expect("it has more to say");
            if let Some(found) = kind(message) {
                return found;
            }
        }
    }
}

fn bound(host: &Host) -> OwnedFd {
    let socket =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &UnixAddr::new(&host.state().join("socket")).unwrap()).unwrap();
    socket
}

fn spawn_with(host: &Host, descriptors: Vec<OwnedFd>) -> Child {
    // Out of the way first: their numbers may be those that they are to have.
    let out_of_the_way = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(64)).unwrap();
    let high: Vec<_> = descriptors.iter().map(out_of_the_way).collect();
    let mut places = high.clone().into_iter().zip(CONTROL_FD..);
    let mut procs = host.shim_procs();
    let mut command = Command::new(env!("CARGO_BIN_EXE_job-shim"));
    command.arg("01010101-0101-0101-0101-010101010101");
    let place = move || {
        procs.write_all(b"0")?;
        for (fd, at) in places.by_ref() {
            // SAFETY: touches no memory.
            if unsafe { libc::dup2(fd, at) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: write(2) and dup2(2) are what a child of a threaded process may call.
    let process = unsafe { command.pre_exec(place) }.spawn().unwrap();
    for fd in high {
        nix::unistd::close(fd).unwrap();
    }
    process
}
