//! Protocol Buffers as in `tonic_prost`, in buffers that are as large as the message.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Bytes that every call begins with.
const BUFFER: usize = 4 << 10;
/// Small messages are sent together up to so many bytes. A frame of HTTP/2 takes 16 KiB (RFC 9113,
/// 4.2): a larger packet is cut up again.
const TOGETHER: usize = 8 << 10;

/// What the generated code encodes and decodes with.
///
/// `tonic_prost` lets a buffer grow while a message is written: a field behind the data of an
/// [`OutputChunk`](crate::v1::OutputChunk) doubles it, and copies it. With a thousand followers of a
/// job that was half of the broker's memory.
#[derive(Debug, Clone)]
pub struct ExactCodec<Encode, Decode>(PhantomData<(Encode, Decode)>);

impl<Encode, Decode> Default for ExactCodec<Encode, Decode> {
    fn default() -> Self {
        ExactCodec(PhantomData)
    }
}

impl<Encode, Decode> Codec for ExactCodec<Encode, Decode>
where
    Encode: Message + Send + 'static,
    Decode: Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = ExactEncoder<Encode>;
    type Decoder = ProstDecoder<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        ExactEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Encode, Decode>::default().decoder()
    }
}

/// Makes room for the whole message before it writes it.
#[derive(Debug, Clone)]
pub struct ExactEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ExactEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.encoded_len());
        message.encode(to).map_err(|e| Status::internal(e.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use tonic::codec::EncodeBody;
    use tonic::codegen::{Body, tokio_stream};

    use super::*;
    use crate::v1::{OutputChunk, StreamOutputResponse, stream_output_response::Kind};

    #[test]
    fn a_chunk_of_output_takes_a_buffer_of_its_size() {
        let time = Some(prost_types::Timestamp { seconds: 1, nanos: 1 });
        let chunk = OutputChunk { data: vec![7; 100_000].into(), time, ..Default::default() };
        let message = StreamOutputResponse { kind: Some(Kind::Chunk(chunk)) };
        let length = message.encoded_len() + 5; // with gRPC's prefix

        let encoder = ExactCodec::<_, StreamOutputResponse>::default().encoder();
        let messages = tokio_stream::once(Ok(message));
        let mut body = Box::pin(EncodeBody::new_client(encoder, messages, None, None));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::as_mut(&mut body).poll_frame(&mut context) else {
            panic!("nothing is encoded")
        };
        let data = frame.into_data().unwrap();
        drop(body); // nobody else has the buffer
        let buffer = data.try_into_mut().unwrap();
        assert_eq!(buffer.len(), length);
        assert!(buffer.capacity() < length + BUFFER, "{} for {length}", buffer.capacity());
    }
}
