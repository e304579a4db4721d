//! gRPC on plain HTTP/2: requests that a client library does not send, and details of responses that it hides. It
//! must not retry.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request};
use prost::Message;

/// The response to a call.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The gRPC status code.
    pub code: i32,
    /// Bytes of the header or trailer with the status, as HTTP/2 counts them: names, values, and 32 for each.
    pub metadata: usize,
    /// Bytes of the messages.
    pub body: usize,
}

/// The request of `/job.v1.JobService/METHOD`, as a gRPC client sends it.
///
/// # Panics
/// If the name is not a method's.
pub fn request(method: &str) -> Request<()> {
    let uri = format!("https://127.0.0.1/job.v1.JobService/{method}");
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.body(()).expect("a request")
}

/// A message with gRPC's prefix: not compressed, its length in four bytes.
pub fn envelope(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("messages are below 4 GiB"));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Makes a unary call and reads the whole response.
///
/// # Errors
/// HTTP/2's: the stream or the connection was reset.
pub async fn call(
    send: &SendRequest<Bytes>,
    method: &str,
    envelope: Bytes,
) -> Result<Answer, h2::Error> {
    let mut send = send.clone().ready().await?;
    let (response, mut body) = send.send_request(request(method), false)?;
    body.send_data(envelope, true)?;
    answer(response).await
}

/// Reads the whole response to a call.
///
/// # Errors
/// HTTP/2's: the stream or the connection was reset.
pub async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        bytes += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    let trailer = body.trailers().await?.unwrap_or(head.headers);
    let code = trailer.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    Ok(Answer { code: code.unwrap_or(-1), metadata: size(&trailer), body: bytes })
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}
