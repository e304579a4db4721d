//! `auth can-i`: asks the broker what its policy says. Starts nothing.

use job_api::client::Client;
use job_api::v1::{CanIRequest, CanIResponse};

use crate::cli::{CanI, Format, Global};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::client::lookup;
use crate::commands::start::request;
use crate::exit;
use crate::failure::{Failure, Result};
use crate::format::escape::escape;
use crate::print::{json, sink};

/// Prints yes or no, and exits with 0 or 1.
pub(crate) async fn can_i(global: &Global, command: CanI) -> Result<i32> {
    let CanI { verb, owner, of, explain, argv, job } = command;
    let mut asked = CanIRequest { verb, owner: owner.unwrap_or_default(), ..<_>::default() };
    if asked.verb == "start" {
        if argv.is_empty() {
            return Err(Failure::usage("can-i start needs a command: can-i start -- CMD [ARGS]"));
        }
        asked.spec = request::start_request(job, argv, false)?.spec;
    } else if !argv.is_empty() {
        return Err(Failure::usage(format!("can-i {} takes no command", escape(&asked.verb))));
    }
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    if let Some(of) = of {
        asked.job = lookup::resolve(&broker, &of).await?;
    }
    let call = async |mut client: Client| client.can_i(asked.clone()).await;
    let answer = broker.once("cannot ask", call).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("CanIResponse", &answer, format)?,
        Format::Name | Format::Table | Format::Wide => words(&answer, explain),
    };
    sink::print(&text)?;
    Ok(if answer.allowed { exit::OK } else { exit::REFUSED })
}

/// `yes`, or `no`, and why.
fn words(answer: &CanIResponse, explain: bool) -> String {
    let mut text = if answer.allowed { "yes\n" } else { "no\n" }.to_owned();
    if explain {
        if !answer.role.is_empty() {
            text += &format!("rule: role {}: {}\n", escape(&answer.role), escape(&answer.rule));
        }
        if !answer.reason.is_empty() {
            text += &format!("why not: {}\n", escape(&answer.reason));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_one_word_unless_somebody_asks_why() {
        let no = CanIResponse { reason: "role ci does not\x1b[2J".into(), ..<_>::default() };
        assert_eq!(words(&no, false), "no\n");
        assert_eq!(words(&no, true), "no\nwhy not: role ci does not\\x1b[2J\n");
        let rule = "program /usr/bin/make (line 10)".into();
        let yes = CanIResponse { allowed: true, role: "ci".into(), rule, ..<_>::default() };
        assert_eq!(words(&yes, true), "yes\nrule: role ci: program /usr/bin/make (line 10)\n");
    }
}
