//! What the broker counts, and the text in which Prometheus reads it. Rooms increment; nothing here knows a job, and
//! no label may have a value that a caller chooses: labels are enums and literals of this program.

pub(crate) mod endpoint;
pub(crate) mod labels;
pub(crate) mod process;
pub(crate) mod text;
pub(crate) mod value;

use crate::metrics::labels::{
    CgroupOperation, Direction, EndCause, Export, LogPurpose, Phase, Reload, TlsFailure,
};
use crate::metrics::text::Text;
use crate::metrics::value::{Counter, Family, Gauge, Histogram, Refusals};

/// The counters of this process.
pub(crate) static METRICS: Metrics = Metrics::new();

/// All counters. One relaxed atomic addition each, so that hot paths can afford them.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Programs that were executed.
    pub(crate) started: Counter,
    /// Jobs whose end was recorded, by its cause.
    pub(crate) ended: Family<EndCause, { EndCause::COUNT }>,
    /// Processes of ended jobs that the kernel killed for memory.
    pub(crate) oom_kills: Counter,
    /// The whole of a successful start, from the call to STARTED.
    pub(crate) start: Histogram,
    /// Each phase of a start, failed starts included.
    pub(crate) phases: [Histogram; Phase::COUNT],
    /// Live jobs of an earlier broker that this one has taken over.
    pub(crate) adopted: Counter,
    /// From the broker's start until it knew all live jobs.
    pub(crate) adoption_live: Gauge,
    /// From the broker's start until it knew all jobs on disk.
    pub(crate) adoption_all: Gauge,
    /// From the broker's start until all adopted shims had answered or were silent.
    pub(crate) adoption_shims: Gauge,
    /// Bytes of output and input, as clients get and send them.
    pub(crate) stream_bytes: Family<Direction, { Direction::COUNT }>,
    /// Streams of output and input that are open.
    pub(crate) streams: [Gauge; Direction::COUNT],
    /// Statuses other than OK, by gRPC code and reason.
    pub(crate) refusals: Refusals,
    /// Connections that completed their handshake and were admitted.
    pub(crate) connections_admitted: Counter,
    /// Those that are open.
    pub(crate) connections: Gauge,
    /// Connections that ended before they were admitted.
    pub(crate) tls_failures: Family<TlsFailure, { TlsFailure::COUNT }>,
    /// Failed operations on the cgroups of jobs.
    pub(crate) cgroup_errors: Family<CgroupOperation, { CgroupOperation::COUNT }>,
    /// Lines of the log that nobody took in time.
    pub(crate) log_dropped: Family<LogPurpose, { LogPurpose::COUNT }>,
    /// Entries of the audit that found no room while it could not be written.
    pub(crate) audit_lost: Counter,
    /// 1 while the audit cannot be written.
    pub(crate) audit_failing: Gauge,
    /// Starts whose spans were sent to a collector, or dropped.
    pub(crate) exports: Family<Export, { Export::COUNT }>,
    /// Reloads of the configuration.
    pub(crate) reloads: Family<Reload, { Reload::COUNT }>,
    /// 1 if the last reload failed and the former configuration is in force.
    pub(crate) reload_failed: Gauge,
}

impl Metrics {
    const fn new() -> Metrics {
        Metrics {
            started: Counter::new(),
            ended: Family::new(),
            oom_kills: Counter::new(),
            start: Histogram::new(),
            phases: [const { Histogram::new() }; Phase::COUNT],
            adopted: Counter::new(),
            adoption_live: Gauge::new(),
            adoption_all: Gauge::new(),
            adoption_shims: Gauge::new(),
            stream_bytes: Family::new(),
            streams: [const { Gauge::new() }; Direction::COUNT],
            refusals: Refusals::new(),
            connections_admitted: Counter::new(),
            connections: Gauge::new(),
            tls_failures: Family::new(),
            cgroup_errors: Family::new(),
            log_dropped: Family::new(),
            audit_lost: Counter::new(),
            audit_failing: Gauge::new(),
            exports: Family::new(),
            reloads: Family::new(),
            reload_failed: Gauge::new(),
        }
    }

    /// The histogram of a phase.
    pub(crate) fn phase(&self, phase: Phase) -> &Histogram {
        &self.phases[phase.index()]
    }

    /// The open streams of one direction.
    pub(crate) fn open_streams(&self, direction: Direction) -> &Gauge {
        &self.streams[direction.index()]
    }

    /// Writes all of them.
    pub(crate) fn write(&self, text: &mut Text) {
        self.write_jobs(text);
        self.write_starts(text);
        self.write_network(text);
        text.counters(
            "job_broker_cgroup_errors_total",
            "Failed operations on the cgroups of jobs, by operation.",
            "operation",
            self.cgroup_errors.samples(CgroupOperation::NAMES),
        );
        text.counters(
            "job_broker_log_lines_dropped_total",
            "Lines of the log that were dropped because nobody took them in time.",
            "purpose",
            self.log_dropped.samples(LogPurpose::NAMES),
        );
        text.counter(
            "job_broker_audit_lines_lost_total",
            "Entries of the audit that found no room in memory while its disk did not take them.",
            self.audit_lost.get(),
        );
        text.gauge(
            "job_broker_audit_failing",
            "1 while the audit cannot be written; changes are refused then, unless audit.on_failure says otherwise.",
            self.audit_failing.get(),
        );
        text.counters(
            "job_broker_traces_total",
            "Starts whose spans were sent to a collector, or dropped because it did not take them.",
            "outcome",
            self.exports.samples(Export::NAMES),
        );
        text.counters(
            "job_broker_reloads_total",
            "Reloads of the configuration, by outcome.",
            "outcome",
            self.reloads.samples(Reload::NAMES),
        );
        text.gauge(
            "job_broker_reload_failed",
            "1 if the last reload failed and the former configuration stays in force.",
            self.reload_failed.get(),
        );
    }

    fn write_jobs(&self, text: &mut Text) {
        text.counter(
            "job_broker_jobs_started_total",
            "Jobs whose program was executed.",
            self.started.get(),
        );
        text.counters(
            "job_broker_jobs_ended_total",
            "Jobs whose end was recorded, by the cause of the end.",
            "cause",
            self.ended.samples(EndCause::NAMES),
        );
        text.counter(
            "job_broker_oom_kills_total",
            "Processes of ended jobs that the kernel killed for memory.",
            self.oom_kills.get(),
        );
        text.counter(
            "job_broker_jobs_adopted_total",
            "Live jobs of an earlier broker that this one has taken over.",
            self.adopted.get(),
        );
        let took = [
            ("live", self.adoption_live.seconds()),
            ("all", self.adoption_all.seconds()),
            ("shims", self.adoption_shims.seconds()),
        ];
        text.gauges(
            "job_broker_adoption_seconds",
            "Time from this broker's start until it knew all live jobs, knew all jobs on disk, and had asked all shims.",
            "step",
            took,
        );
    }

    fn write_starts(&self, text: &mut Text) {
        text.histograms(
            "job_broker_start_seconds",
            "Time of a successful start, from the call until the program runs.",
            None,
            [("", &self.start)],
        );
        text.histograms(
            "job_broker_start_phase_seconds",
            "Time of each phase of a start, failed starts included.",
            Some("phase"),
            Phase::NAMES.into_iter().zip(&self.phases),
        );
    }

    fn write_network(&self, text: &mut Text) {
        text.counters(
            "job_broker_stream_bytes_total",
            "Bytes of jobs' output and input that went through the broker.",
            "direction",
            self.stream_bytes.samples(Direction::NAMES),
        );
        text.gauges(
            "job_broker_streams",
            "Open streams of output and input.",
            "direction",
            Direction::NAMES.into_iter().zip(self.streams.iter().map(|open| open.get() as f64)),
        );
        text.counters_by_two(
            "job_broker_refusals_total",
            "Calls that were refused or failed, by gRPC code and the broker's reason.",
            ["code", "reason"],
            self.refusals.samples(),
        );
        text.counter(
            "job_broker_connections_admitted_total",
            "Connections that completed their handshake and were admitted.",
            self.connections_admitted.get(),
        );
        text.gauge(
            "job_broker_connections",
            "Admitted connections that are open.",
            self.connections.get(),
        );
        text.counters(
            "job_broker_tls_failures_total",
            "Connections that ended before they were admitted, by kind.",
            "kind",
            self.tls_failures.samples(TlsFailure::NAMES),
        );
    }
}
