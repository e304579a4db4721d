//! Fuzz target: a caller's trace context.

use crate::trace::context::TraceContext;
use crate::trace::exporter::Endpoint;

/// The header of a call, and where spans are sent.
pub fn traceparent(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(context) = TraceContext::parse(&text)
        && let Some(parent) = context.parent
    {
        let header = context.header(parent);
        assert_eq!(TraceContext::parse(&header), Some(context));
        assert_eq!(header.len(), 55);
        assert_eq!(text[3..52], header[3..52], "the ids as they came");
    }
    if let Ok(endpoint) = Endpoint::parse(&text) {
        assert!(endpoint.addr.ip().is_loopback());
        assert!(endpoint.path.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
