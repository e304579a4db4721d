//! What a broker that refuses says.

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The only field that an INVALID_ARGUMENT names, and what it says of it.
///
/// # Panics
/// When it is something else, or names none or several.
#[track_caller]
pub fn violation(status: &Status) -> (String, String) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let bad = status.get_details_bad_request().expect("details");
    let [violation] = bad.field_violations.as_slice() else { panic!("{bad:?}") };
    (violation.field.clone(), violation.description.clone())
}

/// Asserts a FAILED_PRECONDITION whose message has all of these words.
///
/// # Panics
/// When it is something else, or does not.
#[track_caller]
pub fn assert_precondition(status: &Status, words: &[&str]) {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    for word in words {
        assert!(status.message().contains(word), "{word:?} is not in {:?}", status.message());
    }
}
