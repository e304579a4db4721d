//! `run`: start, stream, pass signals on, exit as the job did. And `start`.

use std::future::pending;

use job_api::client::Client;
use job_api::signals::signal_name;
use job_api::v1::stream_output_response::Kind as Word;
use job_api::v1::{
    Compression, Job, SignalJobRequest, StartJobRequest, StreamOutputRequest, StreamOutputResponse,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::cli::{self, Format, Global};
use crate::client::connection::Broker;
use crate::client::follow::{Event, Follower};
use crate::commands::notes::note_end;
use crate::commands::start::{input, request};
use crate::exit;
use crate::failure::{Failure, Kind, Result, notice};
use crate::print::output::Output;
use crate::print::{json, sink};

/// `jobctl run`: the exit status.
pub(crate) async fn run(global: &Global, command: cli::Run) -> Result<i32> {
    let (interactive, compression) = (command.interactive, command.compress.compression());
    let is_own = command.job.request_id.is_none();
    let mut request = request::start_request(command.job, command.argv, interactive)?;
    request.set_compression(compression);
    let timeout = command.reconnect.reconnect_timeout;
    let broker = match interactive {
        true => Broker::connect_alone(global, timeout).await?,
        false => Broker::connect(global, timeout).await?,
    };
    let mut signals = Signals::new()?;
    let (job, opened) = tokio::select! {
        running = running(&broker, &request) => running?,
        () = signals.given_up() => {
            notice("gave up before the broker answered; the job may run: see jobctl ps");
            return Ok(exit::INTERRUPTED);
        }
    };
    // Runs beside, and is left where it is when the job ends: it may wait for a terminal.
    if interactive {
        input::forward(broker.without_notices(), job.id.clone(), is_own)?;
    }
    let mut output = Output::new(command.raw, false)?;
    let ended = tokio::select! {
        ended = stream(&broker, &job.id, (opened, compression), &mut output) => ended,
        () = signals.pass_on(&broker, &job.id) => {
            notice(&format!("job {0} goes on; \"jobctl stop {0}\" ends it", job.id));
            return Ok(exit::INTERRUPTED);
        }
    };
    match ended {
        Ok(job) => {
            note_end(&job, global.quiet);
            Ok(exit::of_job(&job))
        }
        Err(failure) => {
            if failure.kind == Kind::ReaderGone {
                send(&broker, &job.id, libc::SIGPIPE).await;
            }
            Err(failure)
        }
    }
}

/// `jobctl start`.
pub(crate) async fn start(global: &Global, command: cli::Start) -> Result<()> {
    let request = request::start_request(command.job, command.argv, false)?;
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let job = started(&broker, &request).await?;
    match global.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            sink::print(&json::shown("Job", &job, format)?)
        }
        _ => sink::print(&format!("{}\n", job.id)),
    }
}

async fn started(broker: &Broker, request: &StartJobRequest) -> Result<Job> {
    let call = |mut client: Client| {
        let request = traced(request);
        async move { client.start_job(request).await }
    };
    let answer = broker.persistent("cannot start", call).await;
    Ok(answer.map_err(|failure| of_start(failure, request))?.job.unwrap_or_default())
}

type Chunks = Streaming<StreamOutputResponse>;

/// Starts the job and asks for its output in one call; a broker that does not know it is asked twice.
async fn running(broker: &Broker, request: &StartJobRequest) -> Result<(Job, Option<Chunks>)> {
    let call = |mut client: Client| {
        let (together, alone) = (traced(request), traced(request));
        async move {
            let mut chunks = match client.run_job(together).await {
                Ok(answer) => answer.into_inner(),
                Err(status) if status.code() == Code::Unimplemented => {
                    let answer = client.start_job(alone).await?;
                    return Ok(answer.map(|answer| (answer.job.unwrap_or_default(), None)));
                }
                Err(status) => return Err(status),
            };
            match chunks.message().await?.and_then(|message| message.kind) {
                Some(Word::Started(job)) => Ok(Response::new((job, Some(chunks)))),
                // Repeated, it gives the same job.
                _ => Err(Status::unavailable("the stream ended before its first word")),
            }
        }
    };
    broker.persistent("cannot start", call).await.map_err(|failure| of_start(failure, request))
}

fn traced(request: &StartJobRequest) -> Request<StartJobRequest> {
    let mut request = Request::new(request.clone());
    if let Some(traceparent) = traceparent() {
        request.metadata_mut().insert("traceparent", traceparent);
    }
    request
}

/// Only here it is known what was to be started.
fn of_start(failure: Failure, request: &StartJobRequest) -> Failure {
    match failure {
        Failure { kind: Kind::NotStarted(why), .. } => {
            let spec = request.spec.clone().unwrap_or_default();
            Failure::not_started("cannot start", *why, &spec)
        }
        failure => failure,
    }
}

/// The span of whoever called us, as OpenTelemetry's tools pass it on to processes; the broker ignores a malformed one.
fn traceparent() -> Option<AsciiMetadataValue> {
    std::env::var("TRACEPARENT").ok()?.parse().ok()
}

async fn stream(
    broker: &Broker,
    id: &str,
    (opened, compression): (Option<Chunks>, Compression),
    output: &mut Output,
) -> Result<Job> {
    let request = StreamOutputRequest {
        id: id.to_owned(),
        follow: true,
        compression: compression.into(),
        ..Default::default()
    };
    let mut follower = Follower::of(broker.clone(), request, opened);
    loop {
        match follower.next().await? {
            Event::Chunk(chunk) => output.write(&chunk).await?,
            Event::End(job) => {
                output.finish().await?;
                return Ok(*job);
            }
        }
    }
}

async fn send(broker: &Broker, id: &str, number: i32) {
    let request = SignalJobRequest { id: id.to_owned(), signal: number };
    let call = |mut client: Client| {
        let request = request.clone();
        async move { client.signal_job(request).await }
    };
    let what = format!("cannot pass {} on", signal_name(number));
    // A job that ended meanwhile is what the signal was for.
    let ended = |failure: &Failure| failure.code == Some(Code::FailedPrecondition);
    match broker.without_notices().persistent(&what, call).await {
        Err(failure) if !ended(&failure) => failure.print(),
        _ => {}
    }
}

/// At this many SIGINTs `run` gives up waiting.
const MAX_INTERRUPTS: u32 = 3;

/// SIGINT, SIGTERM and SIGHUP, kept until there is a job to pass them on to.
struct Signals {
    streams: [(i32, Signal); 3],
    interrupts: u32,
    pending: Vec<i32>,
}

impl Signals {
    fn new() -> Result<Self> {
        let caught = |number: i32| match signal(SignalKind::from_raw(number)) {
            Ok(stream) => Ok((number, stream)),
            Err(e) => Err(Failure::usage(format!("cannot catch {}: {e}", signal_name(number)))),
        };
        let streams = [caught(libc::SIGINT)?, caught(libc::SIGTERM)?, caught(libc::SIGHUP)?];
        Ok(Signals { streams, interrupts: 0, pending: Vec::new() })
    }

    async fn next(&mut self) -> i32 {
        let [(int, ints), (term, terms), (hup, hups)] = &mut self.streams;
        let number = tokio::select! {
            Some(()) = ints.recv() => *int,
            Some(()) = terms.recv() => *term,
            Some(()) = hups.recv() => *hup,
            else => pending().await,
        };
        if number == libc::SIGINT {
            self.interrupts += 1;
        }
        number
    }

    /// Answers at the third SIGINT.
    async fn given_up(&mut self) {
        while self.interrupts < MAX_INTERRUPTS {
            let number = self.next().await;
            self.pending.push(number);
        }
    }

    /// Passes on what came and what comes; answers at the third SIGINT.
    async fn pass_on(&mut self, broker: &Broker, id: &str) {
        // Beside us, so that a broker that does not answer cannot hold up the third.
        let pass = |number| {
            let (broker, id) = (broker.clone(), id.to_owned());
            tokio::spawn(async move { send(&broker, &id, number).await });
        };
        std::mem::take(&mut self.pending).into_iter().for_each(pass);
        while self.interrupts < MAX_INTERRUPTS {
            let number = self.next().await;
            if self.interrupts < MAX_INTERRUPTS {
                pass(number);
            }
        }
    }
}
