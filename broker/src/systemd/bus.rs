//! The D-Bus calls to systemd, org.freedesktop.systemd1(5): look up and create a scope. It must not keep a
//! connection: every call opens its own.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use zbus::zvariant::{OwnedObjectPath, Value};

/// The timeout of a call. Manager and bus normally answer within milliseconds.
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

/// The state of a scope in systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnitState {
    /// The unit does not exist, or is inactive or failed.
    Absent,
    /// Active, with its cgroup relative to the mount.
    Active(PathBuf),
    /// Deactivating, or in another state in which it accepts no process.
    Deactivating(String),
}

/// The properties of a new scope.
#[derive(Debug)]
pub(super) struct ScopeSpec<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) slice: &'a str,
    /// `Before=`: at shutdown systemd stops that unit first.
    pub(super) before: &'a str,
    /// The pid of its first process.
    pub(super) pid: u32,
}

/// Looks up a scope. Blocks.
///
/// # Errors
/// The bus or the manager does not answer.
pub(super) fn find(name: &str) -> io::Result<UnitState> {
    call(async { look_up(&zbus::Connection::system().await?, name).await })
}

/// Creates a scope and waits for systemd's job. Blocks.
///
/// # Errors
/// The bus or the manager does not answer, or systemd rejects the scope.
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
            // The broker manages the cgroups below; systemd does not touch them.
            ("Delegate", Value::from(true)),
            // Otherwise DefaultTasksMax= would limit all jobs together.
            ("TasksMax", Value::from(u64::MAX)),
            // At shutdown systemd stops that unit first, and the unit stops the jobs. The ordering is set
            // here, since systemd never unloads a scope that another unit refers to, and could not
            // create one of that name again.
            ("Before", Value::from(vec![spec.before])),
            // systemd unloads a failed scope, so that a new one can have its name.
            ("CollectMode", Value::from("inactive-or-failed")),
        ];
        let job = manager.start_transient_unit(spec.name, "fail", &properties, &[]).await?;
        while let Some(signal) = removed.next().await {
            let ended = signal.args()?;
            if ended.job == job {
                if ended.result != "done" {
                    let fault = format!("systemd could not start the scope: {}", ended.result);
                    return Err(zbus::Error::Failure(fault));
                }
                return look_up(&bus, spec.name).await;
            }
        }
        Err(zbus::Error::Failure("D-Bus closed the connection".into()))
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

/// Runs a call on its own thread and runtime: some callers are in a runtime that they must not block, others have
/// none.
fn call<T: Send>(question: impl Future<Output = zbus::Result<T>> + Send) -> io::Result<T> {
    let answer = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(async { tokio::time::timeout(TIMEOUT, question).await }) {
            Ok(answer) => answer.map_err(|e| io::Error::other(format!("systemd over D-Bus: {e}"))),
            Err(_) => {
                let fault = format!("systemd did not answer over D-Bus within {TIMEOUT:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, fault))
            }
        }
    };
    std::thread::scope(|threads| {
        let thread = threads.spawn(answer);
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread of the D-Bus call panicked")))
    })
}
