//! Crash points: places between two durable steps at which a development build kills itself when asked
//! to, so that tests see the next program recover. In any other build [`at`] does nothing.
//!
//! A broker is told by [`VARIABLE`] in its environment, a shim by that of its job:
//! `JOB_CRASH_AT=<point>:<n>:<file>` crashes the n-th time that the point is reached, from 1; the file
//! is created at once and gets a byte when that happens. With [`HOLD`] in the same place,
//! `JOB_HOLD_AT`, the thread that reaches the point waits instead, until the file is removed.

/// The name of the variable.
pub const VARIABLE: &str = "JOB_CRASH_AT";
/// The variable that makes a thread wait instead.
pub const HOLD: &str = "JOB_HOLD_AT";

macro_rules! points {
    ($([$program:ident: $whose:literal] $($point:ident = $when:literal,)*)*) => {
        /// A point, named after the step just done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $when] $point,)*)*
        }

        impl Point {
            $(
                #[doc = $whose]
                pub const $program: &[Point] = &[$(Point::$point,)*];
            )*

            /// As it is written in the variable.
            pub fn name(self) -> &'static str {
                match self {
                    $($(Point::$point => stringify!($point),)*)*
                }
            }
        }
    };
}

points! {
    [BROKER: "Those of the broker."]
        DraftWritten = "A record has been written under another name.",
        DraftSynced = "And its bytes are durable.",
        RecordRenamed = "And it has its name.",
        JobRegistered = "A request has a job, which is in memory only.",
        StateCreated = "The job has a directory.",
        SpecWritten = "`spec.json` is there.",
        CgroupMade = "The job's cgroup is there.",
        LimitsSet = "Its limits are set.",
        JobDirCreated = "It has a directory of its own.",
        SocketBound = "Its socket is there.",
        ShimCloned = "Its shim is there, and in no record.",
        SpawnWritten = "`spawn.json` is there.",
        SpecDurable = "`spec.json` is durable; GO is next.",
        GoSaid = "The shim may run the job.",
        StartedHeard = "It does run, and nobody has been told.",
        StartFailed = "A start has failed, and what there was of it is removed.",
        ShimGone = "The shim of a job has ended.",
        WorkKilled = "Nothing is left in `work`.",
        EndLearned = "How the job ended is known, and nobody has been told.",
        EndRecorded = "`final.json` is durable.",
        SocketRemoved = "The job's socket is gone.",
        JobDirRemoved = "And its own directory.",
        CgroupRemoved = "Its cgroup is gone.",
        ChangeRecorded = "A change of limits is in `spec.json`, and not made.",
        ChangeMade = "The kernel has taken it.",
        ChangeTold = "The shim has taken it.",
        ChangeDone = "And `spec.json` says so; nobody else has been told.",
        FreezeDue = "A job is to stand still, or to go on, and the kernel has not been told.",
        StopRecorded = "A stop is in `stop.json`, and nobody has been answered.",
        TakenOver = "A job of an earlier broker has been judged.",
        AuditWritten = "Lines of the audit are in its file, and not durable.",
        AuditSynced = "And they are, and nobody has been told.",
        RemovalBegun = "A deleted job has lost its name.",
    [SHIM: "Those of the shim."]
        LaunchRead = "It knows what it is to do.",
        LogsMade = "Logs and index are there.",
        ExitMade = "`exit` is there, full of zeros.",
        ChildCloned = "The child is there, and waits.",
        Listening = "It is root no more, and can be connected to.",
        HelloSaid = "It waits for GO.",
        Abandoned = "The broker is gone before GO, and so is the child.",
        GoHeard = "The child has not been told.",
        GoPassed = "The child has been told.",
        ExecDone = "The program runs, and nobody has been told.",
        FailureRecorded = "`exit` says that it never ran.",
        MainEnded = "The main process has been waited for.",
        OutcomeRecorded = "`exit` says how it ended, and nobody has been told.",
        ExitSaid = "The broker has been told.",
        EndSaid = "And that nothing is left.",
        LogsSynced = "The logs are durable.",
        TotalsRecorded = "`exit` says that nothing is left.",
        ExitSynced = "`exit` is durable.",
    [CHILD: "Those of the shim's child, which is not yet the workload."]
        NamespacesEntered = "It has namespaces of its own, and what is in them is the view's.",
        RootMade = "Its root directory is in memory.",
        ScratchMounted = "It has temporary files of its own.",
        PlacesMade = "There are places for what is mounted.",
        DevicesMounted = "`/proc` and `/dev` are its own.",
        SourcesBound = "What the job has named is mounted.",
        NetworkUp = "It has a loopback interface.",
        HostnameSet = "It has a name.",
        UserChanged = "It is the job's user.",
}

pub use armed::{arm, at};

#[cfg(debug_assertions)]
mod armed {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    use nix::sys::signal::{Signal, raise};

    use super::{HOLD, Point, VARIABLE};

    struct Armed {
        point: String,
        left: AtomicU32,
        mark: File,
        /// Waits while the mark has a name, instead of dying.
        holds: bool,
    }

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

    /// Takes a variable from somewhere else than this process's environment.
    pub fn arm(name: &str, value: &str) {
        if [VARIABLE, HOLD].contains(&name) {
            let _ = ARMED.set(parse(value, name == HOLD)); // the first one counts
        }
    }

    /// Kills the process here, or waits, if this point is armed.
    pub fn at(point: Point) {
        let variable = |name, holds| parse(&std::env::var(name).ok()?, holds);
        let from_environment = || variable(VARIABLE, false).or_else(|| variable(HOLD, true));
        let Some(armed) = ARMED.get_or_init(from_environment) else { return };
        if armed.point == point.name() && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = (&armed.mark).write_all(b"!"); // the test misses it
            if armed.holds {
                return wait_for_removal(&armed.mark);
            }
            let _ = raise(Signal::SIGKILL);
            std::process::abort() // process 1 of a pid namespace is not killed by its own signal
        }
    }

    /// By its descriptor, since a child that isolates itself no longer sees its path.
    fn wait_for_removal(mark: &File) {
        while mark.metadata().is_ok_and(|file| file.nlink() > 0) {
            thread::sleep(Duration::from_millis(1)); // between two looks
        }
    }

    fn parse(value: &str, holds: bool) -> Option<Armed> {
        let mut parts = value.splitn(3, ':');
        let (point, left) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
        let path = PathBuf::from(parts.next()?);
        // What an earlier process has marked stays.
        let mark = File::options().append(true).create(true).open(&path).ok()?;
        Some(Armed { point, left: AtomicU32::new(left), mark, holds })
    }
}

#[cfg(not(debug_assertions))]
mod armed {
    /// Nothing.
    #[inline(always)]
    pub fn arm(_name: &str, _value: &str) {}

    /// Nothing.
    #[inline(always)]
    pub fn at(_point: super::Point) {}
}
