//! The few words with systemd that need D-Bus: org.freedesktop.systemd1(5).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use zbus::zvariant::{OwnedObjectPath, Value};

/// The manager and the bus answer within milliseconds, or something is wrong with them.
const TIMEOUT: Duration = Duration::from_secs(20);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Value<'_>)],
        auxiliary: &[(&str, Vec<(&str, Value<'_>)>)],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Scope",
    default_service = "org.freedesktop.systemd1"
)]
trait Scope {
    #[zbus(property(emits_changed_signal = "false"))]
    fn control_group(&self) -> zbus::Result<String>;
}

/// What systemd says of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitState {
    /// There is none.
    Absent,
    /// It runs, and this is its cgroup, relative to the mount.
    Active(PathBuf),
    /// It is being stopped, or in another state in which nothing can be added to it.
    Deactivating(String),
}

/// What a new scope is to be.
#[derive(Debug)]
pub(super) struct ScopeSpec<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) slice: &'a str,
    /// The unit that it is to outlive when the host goes down.
    pub(super) before: &'a str,
    /// Its first process.
    pub(super) pid: u32,
}

/// Looks a scope up. Blocks.
///
/// # Errors
/// Bus or manager cannot be reached.
pub(super) fn find(name: &str) -> io::Result<UnitState> {
    call(async { look_up(&zbus::Connection::system().await?, name).await })
}

/// Makes a scope, and answers when systemd has. Blocks.
///
/// # Errors
/// Bus or manager cannot be reached, or the manager refuses.
pub(super) fn create(spec: &ScopeSpec<'_>) -> io::Result<UnitState> {
    call(async {
        let bus = zbus::Connection::system().await?;
        let manager = ManagerProxy::new(&bus).await?;
        manager.subscribe().await?;
        let mut removed = manager.receive_job_removed().await?;
        let properties = [
            ("Description", Value::from(spec.description)),
            ("Slice", Value::from(spec.slice)),
            ("PIDs", Value::from(vec![spec.pid])),
            // The cgroups below are ours: systemd neither looks into them nor touches them.
            ("Delegate", Value::from(true)),
            // Else the usual limit of one service would be that of all jobs together.
            ("TasksMax", Value::from(u64::MAX)),
            // At the end of the host, that one is stopped first: it ends the jobs in good order. Said
            // here and not there, since a unit that another one mentions is never forgotten, and
            // its name is taken for ever.
            ("Before", Value::from(vec![spec.before])),
            // One that has failed is forgotten, so that the next can have its name.
            ("CollectMode", Value::from("inactive-or-failed")),
        ];
        let job = manager.start_transient_unit(spec.name, "fail", &properties, &[]).await?;
        while let Some(signal) = removed.next().await {
            let ended = signal.args()?;
            if ended.job == job {
                if ended.result != "done" {
                    let fault = format!("systemd could not start it: {}", ended.result);
                    return Err(zbus::Error::Failure(fault));
                }
                return look_up(&bus, spec.name).await;
            }
        }
        Err(zbus::Error::Failure("the bus went away".into()))
    })
}

async fn look_up(bus: &zbus::Connection, name: &str) -> zbus::Result<UnitState> {
    let manager = ManagerProxy::new(bus).await?;
    let path = match manager.get_unit(name).await {
        Ok(path) => path,
        Err(zbus::Error::MethodError(error, _, _))
            if error.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
        {
            return Ok(UnitState::Absent);
        }
        Err(e) => return Err(e),
    };
    let unit = UnitProxy::builder(bus).path(&path)?.build().await?;
    let state = unit.active_state().await?;
    match state.as_str() {
        "active" => {
            let scope = ScopeProxy::builder(bus).path(&path)?.build().await?;
            let cgroup = scope.control_group().await?;
            Ok(UnitState::Active(cgroup.trim_start_matches('/').into()))
        }
        "inactive" | "failed" => Ok(UnitState::Absent),
        _ => Ok(UnitState::Deactivating(state)),
    }
}

/// On a thread and a runtime of its own: some of those who ask are in a runtime, and may not block
/// it; others are on a thread that has none.
fn call<T: Send>(question: impl Future<Output = zbus::Result<T>> + Send) -> io::Result<T> {
    let answer = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(async { tokio::time::timeout(TIMEOUT, question).await }) {
            Ok(answer) => answer.map_err(|e| io::Error::other(format!("systemd over D-Bus: {e}"))),
            Err(_) => {
                let fault = format!("systemd has not answered over D-Bus within {TIMEOUT:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, fault))
            }
        }
    };
    std::thread::scope(|threads| {
        let asking = threads.spawn(answer);
        asking.join().unwrap_or_else(|_| Err(io::Error::other("the thread that asks died")))
    })
}
