//! The public contract of the job broker, for Rust.
//!
//! `v1` is generated from `proto/job/v1/job.proto`, its messages encoded by [`codec`]; [`client`]
//! connects to a broker over mutual TLS 1.3, [`refusal`] finds out why one does not stay; [`units`]
//! reads and writes the sizes, durations, rates and CPUs that people type; [`names`] holds the
//! grammar of everything a user may name; [`echo`] bounds what a message repeats of its input; [`pem`]
//! says what is wrong with a PEM file;
//! [`signals`] their names and numbers; [`deflate`] is how output is compressed.

pub mod client;
pub mod codec;
pub mod deflate;
pub mod pem;
pub mod refusal;

pub use job_grammar::{echo, names, signals, units};

/// Generated from `proto/job/v1/job.proto`, which documents every message and field.
#[allow(missing_docs, reason = "generated; the .proto is the documentation")]
#[allow(clippy::all, rustdoc::broken_intra_doc_links, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("job.v1");
}

/// The contract as an encoded `FileDescriptorSet`, for reflection and for JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/job.v1.bin"));

/// The `domain` of every `google.rpc.ErrorInfo` that the broker sends.
pub const ERROR_DOMAIN: &str = "job-broker";

/// Metadata of every answer: the id that the broker gave the call. A client may send one of its own, which the broker
/// records beside it and never takes for unique.
pub const REQUEST_ID_METADATA: &str = "x-request-id";

/// Metadata of a call: why the caller makes it, in UTF-8, at most 512 bytes.
pub const REASON_METADATA: &str = "x-reason-bin";
