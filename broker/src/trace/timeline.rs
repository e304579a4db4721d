//! [`Timeline`]: the phases of one start, one after the other. Each mark reads a clock and adds to a histogram; with
//! traces on, it becomes a span when the start is over.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::metrics::METRICS;
use crate::metrics::labels::Phase;
use crate::trace::context::{TraceContext, span_id};
use crate::trace::exporter;
use crate::trace::otlp::{KeyValue, Span, Status};
use job_launch::host;

/// The phases of one start. It goes along with the start, from the call to STARTED.
#[derive(Debug)]
pub struct Timeline {
    begin: Instant,
    last: Instant,
    recording: Option<Box<Recording>>,
}

/// What becomes spans.
#[derive(Debug)]
struct Recording {
    context: TraceContext,
    span_id: [u8; 8],
    /// Nanoseconds since 1970.
    begin_ns: u64,
    /// Each phase with its begin and end, since the begin of the start.
    phases: Vec<(Phase, Duration, Duration)>,
    attributes: Vec<KeyValue>,
    is_started: bool,
}

/// Kinds and codes of OTLP.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const OK: i32 = 1;
const ERROR: i32 = 2;

impl Timeline {
    /// Begins now, with [`Phase::Admission`]. `traceparent` is the caller's, if it has sent one: a caller that does
    /// not record its part gets no spans.
    pub fn begin(traceparent: Option<&str>) -> Timeline {
        let now = Instant::now();
        let recording = exporter::is_on().then(|| {
            let context = traceparent.and_then(TraceContext::parse);
            Recording::of(context.unwrap_or_else(TraceContext::fresh))
        });
        let recording = recording.filter(|recording| recording.context.is_sampled).map(Box::new);
        Timeline { begin: now, last: now, recording }
    }

    /// The `traceparent` for the answer, if spans are recorded.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.recording.as_ref().map(|recording| recording.context.header(recording.span_id))
    }

    /// Names what is started.
    pub(crate) fn attribute(&mut self, key: &'static str, value: impl Display) {
        if let Some(recording) = &mut self.recording {
            recording.attributes.push(KeyValue::text(key, value.to_string()));
        }
    }

    /// Ends a phase, which began with the end of the one before.
    pub(crate) fn mark(&mut self, phase: Phase) {
        let now = Instant::now();
        METRICS.phase(phase).observe(now - self.last);
        if let Some(recording) = &mut self.recording {
            recording.phases.push((phase, self.last - self.begin, now - self.begin));
        }
        self.last = now;
    }

    /// The program runs.
    pub(crate) fn started(mut self) {
        METRICS.started.add(1);
        METRICS.start.observe(self.last - self.begin);
        if let Some(recording) = &mut self.recording {
            recording.is_started = true;
        }
    }

    /// Nothing was started, and nothing failed: the request was made before.
    pub(crate) fn discard(mut self) {
        self.recording = None;
    }
}

/// A start that ends without [`Timeline::started`] has failed, wherever that was.
impl Drop for Timeline {
    fn drop(&mut self) {
        if let Some(recording) = self.recording.take() {
            exporter::send(recording.into_spans(self.begin.elapsed()));
        }
    }
}

impl Recording {
    fn of(context: TraceContext) -> Recording {
        let (span_id, begin_ns) = (span_id(), host::now_ns());
        let (phases, attributes) = (Vec::with_capacity(Phase::COUNT), Vec::new());
        Recording { context, span_id, begin_ns, phases, attributes, is_started: false }
    }

    /// The span of the start, then those of its phases.
    fn into_spans(self, took: Duration) -> Vec<Span> {
        let at = |time: Duration| {
            self.begin_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        };
        let whole = Span {
            trace_id: self.context.trace_id.to_vec(),
            span_id: self.span_id.to_vec(),
            parent_span_id: self.context.parent.map(Vec::from).unwrap_or_default(),
            name: "StartJob".into(),
            kind: SERVER,
            start_time_unix_nano: self.begin_ns,
            end_time_unix_nano: at(took),
            status: Some(Status { code: if self.is_started { OK } else { ERROR } }),
            ..Span::default()
        };
        let phases = self.phases.iter().map(|(phase, begin, end)| Span {
            trace_id: whole.trace_id.clone(),
            span_id: span_id().to_vec(),
            parent_span_id: whole.span_id.clone(),
            name: phase.name().into(),
            kind: INTERNAL,
            start_time_unix_nano: at(*begin),
            end_time_unix_nano: at(*end),
            ..Span::default()
        });
        let phases: Vec<_> = phases.collect();
        let whole = Span { attributes: self.attributes, ..whole };
        std::iter::once(whole).chain(phases).collect()
    }
}
