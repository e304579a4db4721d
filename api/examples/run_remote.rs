//! Runs one command on a broker's host and exits as it did:
//!
//! ```text
//! cargo run -p job-api --example run_remote -- HOST:PORT ca.crt me.crt me.key -- sh -c 'echo hello; exit 7'
//! ```

use std::io::Write;
use std::process::ExitCode;

use job_api::client::{self, Credentials};
use job_api::v1::stream_output_response::Kind;
use job_api::v1::{JobSpec, OutputStream, StartJobRequest, StreamOutputRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("run_remote: {error}");
        ExitCode::FAILURE
    })
}

async fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [addr, ca, cert, key, dashes, command @ ..] = words.as_slice() else {
        return Err("usage: run_remote HOST:PORT CA CERT KEY -- COMMAND [ARGUMENT...]".into());
    };
    if dashes != "--" {
        return Err("the command stands after --".into());
    }
    let credentials = Credentials {
        ca: std::fs::read(ca)?,
        cert: std::fs::read(cert)?,
        key: std::fs::read(key)?,
    };
    let mut broker = client::connect(addr, &credentials).await?;

    // With an id of your own, a start can be repeated when its answer was lost: the job runs once.
    let request = StartJobRequest {
        spec: Some(JobSpec { argv: command.to_vec(), ..JobSpec::default() }),
        ..StartJobRequest::default()
    };
    let started = broker.start_job(request).await.map_err(|status| status.message().to_owned())?;
    let job = started.into_inner().job.unwrap_or_default();
    eprintln!("job {} runs as uid {}", job.id, job.uid);

    let follow = StreamOutputRequest { id: job.id.clone(), follow: true, ..Default::default() };
    let mut stream = broker.stream_output(follow).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match message.kind {
            Some(Kind::Chunk(chunk)) if chunk.stream() == OutputStream::Err => {
                std::io::stderr().write_all(&chunk.data)?;
            }
            Some(Kind::Chunk(chunk)) => std::io::stdout().write_all(&chunk.data)?,
            // The last message: the job as it ended.
            Some(Kind::Trailer(trailer)) => return Ok(report(&trailer.job.unwrap_or_default())),
            Some(Kind::Started(_)) | None => {}
        }
    }
    Err("the output was cut off: connect again, and go on from the offsets of the last chunk"
        .into())
}

/// How it ended, for people and for a shell: 128+N stands for signal N.
fn report(job: &job_api::v1::Job) -> ExitCode {
    let cause = job.cause().as_str_name();
    match (job.exit_code, job.signal) {
        (Some(code), _) => {
            eprintln!("job {}: {cause}, exit status {code}", job.id);
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
        (None, Some(signal)) => {
            eprintln!("job {}: {cause}, ended by signal {signal}", job.id);
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
        (None, None) => {
            let why = job.failure.as_ref().map(|failure| failure.message.as_str());
            eprintln!("job {}: {cause}, {}", job.id, why.unwrap_or("no exit status is known"));
            ExitCode::FAILURE
        }
    }
}
