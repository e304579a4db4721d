//! The connection to the broker, and reconnecting when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use job_api::client::{Client, Credentials, connect_by, connect_for};
use job_api::refusal::refusal;
use job_api::v1::WhoAmIRequest;
use tonic::{Response, Status};

use crate::cli::Global;
use crate::client::expiry;
use crate::client::kept;
use crate::client::settings::Settings;
use crate::failure::{Failure, Result, call_cause, is_transient, notice};
use crate::format::tls;

/// A broker that was reached. Cloning shares the connection, which opens itself anew when it is
/// used after a loss.
#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) client: Client,
    pub(crate) addr: String,
    credentials: Arc<Credentials>,
    /// A call has succeeded: the broker accepts the certificate.
    is_proven: Arc<AtomicBool>,
    /// How long to try after a loss.
    timeout: Duration,
    quiet: bool,
}

/// What commands use that do not reconnect.
pub(crate) const NO_RECONNECT: Duration = Duration::ZERO;

/// A call that hangs in a dying connection is given at least this long on the new one.
const MIN_ATTEMPT: Duration = Duration::from_secs(1);

/// From the first look at a broker that closes connections without a word to the second.
const SECOND_LOOK: Duration = Duration::from_millis(200);

impl Broker {
    /// Connects once: a broker that is down at the beginning is not waited for.
    pub(crate) async fn connect(global: &Global, timeout: Duration) -> Result<Broker> {
        Broker::connect_with(global, timeout, true).await
    }

    /// The same over a connection of its own: what a job does not read of its input would hold up the
    /// other commands on a kept one.
    pub(crate) async fn connect_alone(global: &Global, timeout: Duration) -> Result<Broker> {
        Broker::connect_with(global, timeout, false).await
    }

    async fn connect_with(global: &Global, timeout: Duration, may_share: bool) -> Result<Broker> {
        let settings = Settings::find(global)?;
        let credentials = settings.credentials()?;
        if !global.quiet {
            expiry::warn(&credentials, &settings.cert);
        }
        let reason = global.reason.as_deref();
        let client = match kept::Dialer::of(&settings, &credentials).filter(|_| may_share) {
            Some(dialer) => {
                let client = connect_by(dialer.clone(), reason).await;
                dialer.keep_one(&settings);
                client
            }
            None => connect_for(&settings.addr, &credentials, reason).await,
        };
        let client = client.map_err(|error| Failure::of_connect(&settings.addr, &error))?;
        Ok(Broker {
            client,
            addr: settings.addr,
            credentials: Arc::new(credentials),
            is_proven: Arc::default(),
            timeout,
            quiet: global.quiet,
        })
    }

    /// The same without notices, for what runs beside a call that gives them.
    pub(crate) fn without_notices(&self) -> Broker {
        Broker { quiet: true, ..self.clone() }
    }

    /// A call that failed, in words.
    pub(crate) async fn failure(&self, what: &str, status: &Status) -> Failure {
        if is_transient(status)
            && !self.is_proven.load(Ordering::Relaxed)
            && let Some(refused) = self.refused().await
        {
            return refused;
        }
        match tls::of_own(&call_cause(status), &self.credentials) {
            Some(said) => Failure::refused_by_tls(&self.addr, said),
            None => Failure::of_call(what, &self.addr, status),
        }
    }

    /// A call has gone well.
    pub(crate) fn mark_stable(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
    }

    /// What the broker's TLS has against us, where that is why it closes connections. One that has
    /// never answered and closes at once needs no reason: trying on would not help.
    async fn refused(&self) -> Option<Failure> {
        let cause = refusal(&self.addr, &self.credentials).await.ok().flatten()?;
        if let Some(said) = tls::of_own(&cause, &self.credentials) {
            return Some(Failure::refused_by_tls(&self.addr, said));
        }
        if let Some(refused) = Failure::of_tls(&self.addr, &cause) {
            return Some(refused);
        }
        if self.is_proven.load(Ordering::Relaxed) {
            return None;
        }
        // A broker that dies closes connections, too, and does not do it a second time.
        tokio::time::sleep(SECOND_LOOK).await;
        refusal(&self.addr, &self.credentials).await.ok().flatten()?;
        let what = format!("cannot connect to {}: it closes the connection at once", self.addr);
        let hint = "it may not accept your certificate; the broker's log says why";
        Some(Failure::unreachable(what).hint(hint))
    }

    /// One call, not repeated.
    pub(crate) async fn once<T>(
        &self,
        what: &str,
        call: impl AsyncFnOnce(Client) -> std::result::Result<Response<T>, Status>,
    ) -> Result<T> {
        match call(self.client.clone()).await {
            Ok(answer) => {
                self.mark_stable();
                Ok(answer.into_inner())
            }
            Err(status) => Err(self.failure(what, &status).await),
        }
    }

    /// A call that may be repeated: it is, over every loss of the connection.
    pub(crate) async fn persistent<T, F>(&self, what: &str, call: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<Response<T>, Status>>,
    {
        let mut outage = None;
        loop {
            let began = Instant::now();
            match call(self.client.clone()).await {
                Ok(answer) => {
                    self.mark_stable();
                    return Ok(answer.into_inner());
                }
                Err(status) if is_transient(&status) => {
                    let lived = began.elapsed();
                    self.come_back(&mut outage, lived, &call_cause(&status), "").await?;
                }
                Err(status) => return Err(self.failure(what, &status).await),
            }
        }
    }

    /// After a loss: answers when the broker answers again, and says both, the second with where
    /// the caller goes `on`. `lived` is for how long the lost call had gone well: losses in quick
    /// succession are one outage.
    ///
    /// # Errors
    /// After the timeout: the connection is lost for good.
    pub(crate) async fn come_back(
        &self,
        outage: &mut Option<Outage>,
        lived: Duration,
        cause: &str,
        on: &str,
    ) -> Result<()> {
        if lived > STABLE_AFTER {
            *outage = None;
        }
        if !self.is_proven.load(Ordering::Relaxed)
            && let Some(refused) = self.refused().await
        {
            return Err(refused);
        }
        let outage = outage.get_or_insert_with(|| self.outage(cause));
        let mut cause = cause.to_owned();
        loop {
            outage.pause(&cause).await?;
            let mut client = self.client.clone();
            match outage.bounded(client.who_am_i(WhoAmIRequest {})).await {
                Err(status) if is_transient(&status) => {
                    cause = call_cause(&status);
                    // E.g. revoked meanwhile: trying on would only hide it.
                    if let Some(refused) = self.refused().await {
                        return Err(refused);
                    }
                }
                Err(status) => return Err(self.failure("cannot reconnect", &status).await),
                Ok(_) => {
                    outage.over(on);
                    return Ok(());
                }
            }
        }
    }

    fn outage(&self, cause: &str) -> Outage {
        if !self.quiet && !self.timeout.is_zero() {
            notice(&format!("connection to {} lost ({cause}); reconnecting...", self.addr));
        }
        Outage {
            addr: self.addr.clone(),
            timeout: self.timeout,
            quiet: self.quiet,
            since: Instant::now(),
            delay: FIRST_DELAY,
        }
    }
}

/// What went well for this long ends an outage.
const STABLE_AFTER: Duration = Duration::from_secs(5);

const FIRST_DELAY: Duration = Duration::from_millis(50);
/// A broker that is restarted is back in a moment, and whoever follows a job is to see that moment
/// and no more: so the pauses stay short for a while.
const SHORT_DELAY: Duration = Duration::from_millis(200);
const FIRST_NOTICE: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// From a loss to the first success after it.
pub(crate) struct Outage {
    addr: String,
    timeout: Duration,
    quiet: bool,
    since: Instant,
    delay: Duration,
}

impl Outage {
    /// Waits before the next try: 50 ms, doubled up to 200 ms, and after a while up to 2 s.
    async fn pause(&mut self, cause: &str) -> Result<()> {
        let left = self.timeout.saturating_sub(self.since.elapsed());
        if left.is_zero() {
            let tried = match self.timeout {
                Duration::ZERO => String::new(),
                timeout => format!("; gave up after {}", humantime::format_duration(timeout)),
            };
            return Err(Failure::unreachable(format!(
                "connection to {} lost: {cause}{tried}",
                self.addr
            )));
        }
        tokio::time::sleep(self.delay.min(left)).await;
        self.delay = longer(self.delay, self.since.elapsed());
        Ok(())
    }

    /// An attempt bounded by the timeout: a frozen broker accepts connections and never answers.
    async fn bounded<T>(
        &self,
        call: impl Future<Output = std::result::Result<T, Status>>,
    ) -> std::result::Result<T, Status> {
        let left = self.timeout.saturating_sub(self.since.elapsed()).max(MIN_ATTEMPT);
        match tokio::time::timeout(left, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::unavailable("no answer")),
        }
    }

    /// Says that it is over, once.
    fn over(&mut self, on: &str) {
        if !self.quiet {
            notice(&format!("reconnected{on}"));
            self.quiet = true;
        }
    }
}

/// The pause after one of this length, so long after the loss.
fn longer(delay: Duration, since: Duration) -> Duration {
    (delay * 2).min(if since < FIRST_NOTICE { SHORT_DELAY } else { LONGEST_DELAY })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(timeout: Duration) -> Outage {
        Outage {
            addr: "b:1".into(),
            timeout,
            quiet: true,
            since: Instant::now(),
            delay: FIRST_DELAY,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn without_a_timeout_a_loss_is_final() {
        assert!(outage(Duration::ZERO).pause("reset").await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_delays_grow_until_the_timeout() {
        let mut outage = outage(Duration::from_secs(3600));
        assert!(outage.pause("reset").await.is_ok());
        assert_eq!(outage.delay, FIRST_DELAY * 2);
        assert!(outage.pause("reset").await.is_ok());
        assert_eq!(outage.delay, FIRST_DELAY * 4);
        outage.timeout = Duration::ZERO;
        assert!(outage.pause("reset").await.is_err());
    }

    #[test]
    fn the_pauses_stay_short_for_a_while_and_then_grow_to_two_seconds() {
        let after = |since| (0..10).fold(FIRST_DELAY, |delay, _| longer(delay, since));
        assert_eq!(after(Duration::ZERO), SHORT_DELAY);
        assert_eq!(after(FIRST_NOTICE), LONGEST_DELAY);
    }
}
