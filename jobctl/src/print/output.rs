//! A job's output on its way to our own streams.

use job_api::v1::{OutputChunk, OutputStream};

use crate::failure::{Failure, Result};
use crate::format::escape::Escaper;
use crate::print::lines::Lines;
use crate::print::sink::Sink;

/// Both streams, each to its own.
pub(crate) struct Output {
    out: StreamState,
    err: StreamState,
}

struct StreamState {
    sink: Sink,
    lines: Option<Lines>,
    escaper: Option<Escaper>,
}

impl Output {
    /// `raw`: what goes to a terminal is not escaped either.
    pub(crate) fn new(raw: bool, timestamps: bool) -> Result<Output> {
        let lane = |sink: Sink| StreamState {
            lines: timestamps.then(Lines::default),
            escaper: (sink.is_terminal && !raw).then(Escaper::default),
            sink,
        };
        Ok(Output { out: lane(Sink::stdout()?), err: lane(Sink::stderr()?) })
    }

    pub(crate) async fn write(&mut self, chunk: &OutputChunk) -> Result<()> {
        match chunk.stream() {
            OutputStream::Err => self.err.write(chunk).await,
            OutputStream::Out | OutputStream::Unspecified => self.out.write(chunk).await,
        }
    }

    /// What was held back for a line's or a character's end that did not come.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.out.finish().await?;
        self.err.finish().await
    }
}

impl StreamState {
    async fn write(&mut self, chunk: &OutputChunk) -> Result<()> {
        if self.lines.is_none() && self.escaper.is_none() {
            return self.put(&chunk.data).await;
        }
        let mut text = Vec::with_capacity(chunk.data.len() + 64);
        match &mut self.lines {
            Some(lines) => lines.push(chunk.time.as_ref(), &chunk.data, &mut text),
            None => text.extend_from_slice(&chunk.data),
        }
        self.put_escaped(text, false).await
    }

    async fn finish(&mut self) -> Result<()> {
        let mut text = Vec::new();
        if let Some(lines) = &mut self.lines {
            lines.finish(&mut text);
        }
        self.put_escaped(text, true).await
    }

    async fn put_escaped(&mut self, text: Vec<u8>, is_last: bool) -> Result<()> {
        let Some(escaper) = &mut self.escaper else { return self.put(&text).await };
        let mut escaped = Vec::with_capacity(text.len());
        escaper.push(&text, &mut escaped);
        if is_last {
            escaper.finish(&mut escaped);
        }
        self.put(&escaped).await
    }

    async fn put(&mut self, data: &[u8]) -> Result<()> {
        self.sink.write_all(data).await.map_err(|error| Failure::of_stdout(&error))
    }
}
