//! gRPC on HTTP/2 by hand: what a client library would not send, and what it would not show.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request};
use prost::Message;

/// How a call was answered.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// gRPC's.
    pub code: i32,
    /// Of the header or trailer that has it, as HTTP/2 counts: names, values, and 32 for each.
    pub metadata: usize,
    /// Of the messages.
    pub body: usize,
}

/// `/job.v1.JobService/METHOD`, as a client of gRPC asks for it.
///
/// # Panics
/// When the name is not one of a method.
pub fn request(method: &str) -> Request<()> {
    let uri = format!("https://127.0.0.1/job.v1.JobService/{method}");
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.body(()).expect("a request")
}

/// A message in gRPC's envelope: not compressed, its length in four bytes.
pub fn envelope(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("messages are below 4 GiB"));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Makes a unary call and reads all of its answer.
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

/// Reads all of the answer to a call.
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
