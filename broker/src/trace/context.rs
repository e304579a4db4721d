//! W3C trace context: the header `traceparent`, version 00. A header that is malformed counts as none, as the
//! recommendation has it.

/// The caller's span, or what takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TraceContext {
    pub(super) trace_id: [u8; 16],
    /// The caller's span; none for a trace that begins here.
    pub(super) parent: Option<[u8; 8]>,
    /// Whether the caller records its part.
    pub(super) is_sampled: bool,
}

impl TraceContext {
    /// A trace that begins here.
    pub(super) fn fresh() -> TraceContext {
        let trace_id = *uuid::Uuid::new_v4().as_bytes();
        TraceContext { trace_id, parent: None, is_sampled: true }
    }

    /// Parses `00-<32 hex>-<16 hex>-<2 hex>`; of later versions the part that version 00 knows.
    pub(super) fn parse(header: &str) -> Option<TraceContext> {
        let mut parts = header.split('-');
        let [version] = bytes(parts.next()?)?;
        let trace_id: [u8; 16] = bytes(parts.next()?)?;
        let parent: [u8; 8] = bytes(parts.next()?)?;
        let [flags] = bytes(parts.next()?)?;
        let is_whole = version != 0xff && (version != 0 || parts.next().is_none());
        let is_valid = is_whole && trace_id != [0; 16] && parent != [0; 8];
        is_valid.then_some(TraceContext {
            trace_id,
            parent: Some(parent),
            is_sampled: flags & 1 == 1,
        })
    }

    /// The header that names this span.
    pub(super) fn header(&self, span_id: [u8; 8]) -> String {
        let flags = u8::from(self.is_sampled);
        format!("00-{}-{}-{flags:02x}", hex(&self.trace_id), hex(&span_id))
    }
}

/// A random id of a span, never all zeros.
pub(super) fn span_id() -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..8]); // none of its fixed bits make it zero
    id[0] |= 1;
    id
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    let mut all = [0; N];
    for (at, byte) in all.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written_back() {
        let context = TraceContext::parse(HEADER).unwrap();
        assert_eq!(context.header(context.parent.unwrap()), HEADER);
        let unsampled = TraceContext::parse(&HEADER.replace("-01", "-00")).unwrap();
        assert!(context.is_sampled && !unsampled.is_sampled);
        let later = format!("{}-more", HEADER.replacen("00", "01", 1));
        assert!(TraceContext::parse(&later).is_some());
    }

    #[test]
    fn what_is_malformed_counts_as_none() {
        for header in [
            "",
            "00",
            &HEADER[..54],
            &HEADER.to_uppercase(),
            &format!("{HEADER}-more"),
            &HEADER.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319ä-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(header), None, "{header:?}");
        }
    }
}
