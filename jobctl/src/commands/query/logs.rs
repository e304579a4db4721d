//! `logs`, `stream` and `wait`: reading a job without owning its life.

use std::time::SystemTime;

use job_api::v1::wait_job_request::Until;
use job_api::v1::{OutputStream, StreamOutputRequest};

use crate::cli::{self, Format, Global, Stream, Streams, Wait};
use crate::client::connection::Broker;
use crate::client::follow::{Event, Follower};
use crate::client::{calls, lookup};
use crate::commands::notes;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::format::time;
use crate::print::output::Output;
use crate::print::{json, sink};

pub(crate) async fn logs(global: &Global, which: Stream, follow: bool) -> Result<()> {
    let mut request = request(&which, follow)?;
    let broker = Broker::connect(global, which.reconnect.reconnect_timeout).await?;
    request.id = lookup::resolve(&broker, &which.job).await?;
    let mut output = Output::new(which.raw, which.timestamps)?;
    let mut follower = Follower::new(broker, request);
    loop {
        match follower.next().await? {
            Event::Chunk(chunk) => output.write(&chunk).await?,
            Event::End(job) => {
                output.finish().await?;
                if !global.quiet {
                    notes::note_output(&job);
                }
                return Ok(());
            }
        }
    }
}

fn request(which: &Stream, follow: bool) -> Result<StreamOutputRequest> {
    let since = which.since.as_deref();
    let since = since
        .map(|text| time::parse_since(text, SystemTime::now()))
        .transpose()
        .map_err(|why| Failure::usage(format!("--since: {why}")))?;
    let from = which.from_offset.unwrap_or(0);
    let (stream, stdout_offset, stderr_offset) = match which.stream {
        Streams::Stdout => (OutputStream::Out, from, 0),
        Streams::Stderr => (OutputStream::Err, 0, from),
        Streams::Both if which.from_offset.is_some() => {
            return Err(Failure::usage("--from-offset counts the bytes of one stream")
                .hint("give --stream stdout or --stream stderr too"));
        }
        Streams::Both => (OutputStream::Unspecified, 0, 0),
    };
    Ok(StreamOutputRequest {
        stream: stream.into(),
        stdout_offset,
        stderr_offset,
        tail_lines: which.tail,
        since,
        follow,
        timestamps: which.timestamps,
        compression: which.compress.compression().into(),
        ..Default::default()
    })
}

/// The exit status: that of the last job, in the order given, that did not end with 0.
pub(crate) async fn wait(global: &Global, command: Wait) -> Result<i32> {
    let broker = Broker::connect(global, command.reconnect.reconnect_timeout).await?;
    let until = match command.until {
        cli::Until::Exit => Until::Exit,
        cli::Until::End => Until::End,
    };
    let mut last = exit::OK;
    for word in &command.jobs {
        let status = match wait_for(global, &broker, word, until).await {
            Ok(status) => status,
            Err(failure) => {
                failure.print();
                exit::of_failure(&failure, true)
            }
        };
        if status != exit::OK {
            last = status;
        }
    }
    Ok(last)
}

async fn wait_for(global: &Global, broker: &Broker, word: &str, until: Until) -> Result<i32> {
    let id = lookup::resolve(broker, word).await?;
    let job = calls::wait(broker, &id, until).await?;
    if let Some(format @ (Format::Json | Format::Yaml)) = global.output {
        sink::print(&json::shown("Job", &job, format)?)?;
    }
    notes::note_end(&job, global.quiet);
    Ok(exit::of_job(&job))
}
