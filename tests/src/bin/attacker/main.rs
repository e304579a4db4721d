//! Makes one attack on a broker: `attacker NAME [KEY=VALUE]...`, see `job_tests::attack`. It is
//! bounded, ends with the test that started it, and its last line is what it saw, as JSON. One file
//! for each room that is attacked.

#![allow(clippy::expect_used, reason = "an attack that cannot be made is a failed test")]

mod calls;
mod connections;
mod log;
mod output;
mod readers;
mod requests;
mod transport;

use job_tests::attack::{Args, Peer, end_with_parent};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    end_with_parent();
    let mut words = std::env::args().skip(1);
    let name = words.next().expect("usage: attacker NAME [KEY=VALUE]...");
    let (peer, args) = (Peer::of_environment(), Args::parse(words));
    let seen = match name.as_str() {
        "arguments" => log::arguments(&peer, &args).await,
        "readers" => output::readers(&peer, &args).await,
        "stalled" => output::stalled(&peer, &args).await,
        "searches" => output::searches(&peer, &args).await,
        "compressed" => output::compressed(&peer, &args).await,
        "tails" => output::tails(&peer, &args).await,
        "refusals" => requests::refusals(&peer, &args).await,
        "certificates" => connections::certificates(&peer, &args).await,
        "half-handshakes" => connections::half_handshakes(&peer, &args).await,
        "handshakes" => connections::handshakes(&peer, &args).await,
        "rapid-reset" => connections::rapid_reset(&peer, &args).await,
        "settings" => connections::settings(&peer, &args).await,
        "pings" => connections::pings(&peer, &args).await,
        "continuations" => connections::continuations(&peer, &args).await,
        "large-headers" => connections::large_headers(&peer, &args).await,
        "never-read" => readers::never_read(&peer, &args).await,
        "stop-reading" => readers::stop_reading(&peer, &args).await,
        "jobs" => requests::jobs(&peer, &args).await,
        "states" => requests::states(&peer, &args).await,
        "half_messages" => transport::half_messages(&peer, &args).await,
        "unread_answers" => transport::unread_answers(&peer, &args).await,
        "silent_connections" => transport::silent_connections(&peer, &args).await,
        "connections" => transport::connections(&peer, &args).await,
        "odd_messages" => transport::odd_messages(&peer, &args).await,
        "stops" => calls::stops(&peer, &args).await,
        "starts" => calls::starts(&peer, &args).await,
        _ => panic!("there is no attack {name}"),
    };
    println!("{seen}");
}
