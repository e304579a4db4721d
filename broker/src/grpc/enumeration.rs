//! Enum values of requests. It must not give one a meaning: the converters do.

use tonic::Status;

use crate::grpc::status;

/// Converts an enum value. An unknown value of a newer client is an error: its meaning cannot be guessed.
pub(super) fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Status> {
    let fault = || format!("is {number}, which this broker does not know");
    E::try_from(number).map_err(|_| status::field(field, fault()))
}
