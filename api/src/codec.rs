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
