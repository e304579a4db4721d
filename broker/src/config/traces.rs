//! `[traces]`: where spans of starts are sent.

use serde::Deserialize;

use crate::trace::exporter::Endpoint;

/// Spans of starts for OpenTelemetry. They are off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// A collector on this host that takes OTLP over HTTP: `"http://127.0.0.1:4318"`. Each start has a span with one for
    /// each of its phases; a caller's `traceparent` is the parent. Not set: no spans.
    pub endpoint: Option<String>,
}

impl Traces {
    /// The endpoint; none if traces are off.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub(crate) fn endpoint(&self) -> Result<Option<Endpoint>, (&'static str, String)> {
        let parse = |url: &String| Endpoint::parse(url).map_err(|fault| ("traces.endpoint", fault));
        self.endpoint.as_ref().map(parse).transpose()
    }
}
