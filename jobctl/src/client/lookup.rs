//! From what a user calls a job to its id; and lists over all their pages.

use job_api::client::Client;
use job_api::v1::{Job, ListJobsRequest};

use crate::client::connection::Broker;
use crate::failure::{Failure, Result};
use crate::format::escape::escape;
use crate::format::state::is_live;

/// The largest page that the contract allows.
const PAGE: usize = 1000;

/// The id of the job called `word`: a whole id, a unique beginning of one, or a name.
pub(crate) async fn resolve(broker: &Broker, word: &str) -> Result<String> {
    if let Some(id) = whole_id(word) {
        return Ok(id);
    }
    let request = ListJobsRequest { selector: word.to_owned(), ..Default::default() };
    let found = list(broker, request, None).await?;
    chosen(word, &found).map(|job| job.id.clone())
}

/// The jobs that match, newest first, at most `limit`.
pub(crate) async fn list(
    broker: &Broker,
    mut request: ListJobsRequest,
    limit: Option<usize>,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    loop {
        let left = limit.map_or(PAGE, |limit| limit.saturating_sub(jobs.len()));
        if left == 0 {
            return Ok(jobs);
        }
        request.page_size = left.min(PAGE) as u32;
        let call = async |mut client: Client| client.list_jobs(request.clone()).await;
        let page = broker.once("cannot list jobs", call).await?;
        jobs.extend(page.jobs);
        jobs.truncate(limit.unwrap_or(usize::MAX));
        if page.next_page_token.is_empty() {
            return Ok(jobs);
        }
        request.page_token = page.next_page_token;
    }
}

fn whole_id(word: &str) -> Option<String> {
    // 36: with hyphens; the shorter forms could as well be names.
    let id = uuid::Uuid::try_parse(word).ok().filter(|_| word.len() == 36)?;
    Some(id.to_string())
}

/// A name goes before a beginning of an id, the living before the dead; of the dead of one name the
/// newest is meant, of two living ones (an admin sees several owners') none.
fn chosen<'a>(word: &str, found: &'a [Job]) -> Result<&'a Job> {
    let named = |job: &&Job| job.name == word;
    let lower = word.to_ascii_lowercase();
    let begins = |job: &&Job| job.id.starts_with(&lower);
    let living_named: Vec<_> = found.iter().filter(named).filter(|job| is_live(job)).collect();
    if !living_named.is_empty() {
        return only(word, living_named);
    }
    // Ids are UUIDs of version 7: the greatest is the newest.
    if let Some(newest) = found.iter().filter(named).max_by(|a, b| a.id.cmp(&b.id)) {
        return Ok(newest);
    }
    let living: Vec<_> = found.iter().filter(begins).filter(|job| is_live(job)).collect();
    if !living.is_empty() {
        return only(word, living);
    }
    only(word, found.iter().filter(begins).collect())
}

/// Candidates that an error lists.
const SHOWN: usize = 10;

fn only<'a>(word: &str, jobs: Vec<&'a Job>) -> Result<&'a Job> {
    match jobs.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::refused(format!("no job \"{}\"", escape(word)))
            .hint("\"jobctl ps -a\" lists yours, the ended ones too")),
        many => {
            let mut candidates: Vec<_> = many.iter().take(SHOWN).map(|job| in_short(job)).collect();
            if many.len() > SHOWN {
                candidates.push(format!("... and {} more", many.len() - SHOWN));
            }
            Err(Failure::refused(format!("\"{}\" is {} jobs", escape(word), many.len()))
                .details(candidates)
                .hint("give more of the id"))
        }
    }
}

fn in_short(job: &Job) -> String {
    let state = job.state().as_str_name();
    let name = if job.name.is_empty() { "-" } else { &job.name };
    format!("{}  {}  {}  {state}", job.id, escape(&job.owner), escape(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::job::State;

    fn job(id: &str, name: &str, state: State) -> Job {
        Job { id: id.into(), name: name.into(), state: state.into(), ..Job::default() }
    }

    fn pick(word: &str, jobs: &[Job]) -> Option<String> {
        chosen(word, jobs).ok().map(|job| job.id.clone())
    }

    #[test]
    fn a_whole_id_needs_no_list() {
        let id = "0198c7f2-3d4e-7f01-8000-0123456789ab";
        assert_eq!(whole_id(id).as_deref(), Some(id));
        assert_eq!(whole_id(&id.to_uppercase()).as_deref(), Some(id));
        assert_eq!(whole_id(&id.replace('-', "")), None);
        assert_eq!(whole_id("web"), None);
    }

    #[test]
    fn the_living_bearer_of_a_name_is_meant_else_the_newest() {
        let jobs = [
            job("03", "web", State::Finished),
            job("02", "web", State::Running),
            job("01", "web", State::Lost),
        ];
        assert_eq!(pick("web", &jobs).as_deref(), Some("02"));
        assert_eq!(pick("web", &[jobs[2].clone(), jobs[0].clone()]).as_deref(), Some("03"));
    }

    #[test]
    fn a_beginning_must_be_unique_and_prefers_the_living() {
        let jobs = [
            job("0aa", "", State::Finished),
            job("0ab", "", State::Running),
            job("1aa", "", State::Finished),
            job("1ab", "", State::Lost),
        ];
        assert_eq!(pick("0a", &jobs).as_deref(), Some("0ab"));
        assert_eq!(pick("0AA", &jobs).as_deref(), Some("0aa"));
        assert_eq!(pick("1a", &jobs), None);
        assert_eq!(pick("2", &jobs), None);
    }

    #[test]
    fn a_name_is_not_taken_for_a_beginning() {
        let jobs = [job("0aa", "", State::Running), job("1bb", "0", State::Finished)];
        assert_eq!(pick("0", &jobs).as_deref(), Some("1bb"));
    }

    #[test]
    fn two_owners_living_jobs_of_one_name_are_ambiguous() {
        let jobs = [job("0a", "web", State::Running), job("0b", "web", State::Running)];
        assert_eq!(pick("web", &jobs), None);
    }
}
