//! Starting, watching and ending the processes of a development cluster.
//!
//! There is no supervisor: a process is known by its id *and* by the time it began, which together name it for as long
//! as the machine is up. So a process id that was used again is never signalled by mistake.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::layout::Member;
use crate::exit::{Failure, Kind, Result};

/// Whether the process that `member` names is running.
pub fn is_running(member: &Member) -> bool {
    let (Some(pid), Some(began)) = (member.pid, member.began) else {
        return false;
    };
    matches!(stat(pid), Some((state, start)) if start == began && state != 'Z' && state != 'X')
}

/// State letter and start time of a process, from `/proc/PID/stat`.
fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is the program's name in parentheses and may hold anything, so fields are counted from the last
/// closing one: the state is field 3, the start time field 22.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Sends a signal to the process, if it is running. Returns whether it was.
pub fn signal(member: &Member, signal: Signal) -> Result<bool> {
    if !is_running(member) {
        return Ok(false);
    }
    let pid = member
        .pid
        .and_then(|pid| Pid::from_raw(pid as i32))
        .expect("a running process has an id");
    match kill_process(pid, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(Failure::environment(
            format!("cannot signal {} (process {pid:?})", member.name),
            error,
        )),
    }
}

/// Waits until none of the processes runs. Returns the names of those that still do after `limit`.
pub async fn wait_gone(members: &[Member], limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    loop {
        let left: Vec<String> = members
            .iter()
            .filter(|member| is_running(member))
            .map(|member| member.name.clone())
            .collect();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Refuses ports that somebody listens on.
///
/// # Errors
/// [`Kind::PortTaken`] names the first one, whose it would be, and the way out.
pub fn check_ports<'a>(members: impl Iterator<Item = &'a Member>) -> Result<()> {
    for member in members {
        let mut addrs = vec![&member.addr];
        if member.status_addr != member.addr {
            addrs.push(&member.status_addr);
        }
        for addr in addrs {
            if let Err(error) = TcpListener::bind(addr) {
                return Err(Failure::new(
                    Kind::PortTaken,
                    format!("{} cannot listen on {addr}", member.name),
                )
                .because(error)
                .hint("stop what listens there, or choose other ports with --port-offset, for example --port-offset 1000"));
            }
        }
    }
    Ok(())
}

/// Starts `pontoon serve` for the process and notes its id in `member`. Its output is appended to `DIR/NAME.log`.
///
/// The child gets a process group of its own, so that ctrl-c in a terminal reaches only the command, which then ends the
/// cluster in order.
///
/// # Errors
/// The log cannot be opened or the process not be started.
pub fn spawn(dir: &Path, member: &mut Member, environment: &[(String, String)]) -> Result<()> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::environment(format!("cannot {what} for {}", member.name), error)
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(format!("{}.log", member.name)))
        .map_err(|error| failed("open the log", error))?;
    let errors = log
        .try_clone()
        .map_err(|error| failed("open the log", error))?;
    let program = std::env::current_exe().map_err(|error| failed("find this program", error))?;
    let role = match member.role {
        super::layout::Role::Placement => "placement",
        super::layout::Role::Store => "store",
    };
    let child = Command::new(program)
        .args(["serve", role, "--config"])
        .arg(dir.join(format!("{}.toml", member.name)))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|error| failed("start the process", error))?;
    let pid = child.id();
    // Reaps the child when it ends, as long as this process is its parent.
    std::thread::spawn(move || {
        let mut child = child;
        child.wait()
    });
    member.pid = Some(pid);
    // Gone already means that it failed at once; the caller finds it not running.
    member.began = stat(pid).map(|(_, start)| start);
    Ok(())
}

/// The last lines of a process's log.
pub fn log_tail(dir: &Path, name: &str, lines: usize) -> String {
    const BYTES: u64 = 8 << 10;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(dir.join(format!("{name}.log")))?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::layout::Layout;

    #[test]
    fn stat_is_read_after_a_name_with_parentheses() {
        let mut line = String::from("77 (a) S (b) R 1");
        for field in 5..=21 {
            line.push_str(&format!(" {field}"));
        }
        line.push_str(" 4242 0 0");
        assert_eq!(parse_stat(&line), Some(('R', 4242)));
        assert_eq!(parse_stat("77 (a) R 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_reused_process_id_is_another_process() {
        let mut member = Layout::new(1, 1, 0, 1).unwrap().stores.remove(0);
        assert!(!is_running(&member));
        let own = std::process::id();
        member.pid = Some(own);
        member.began = stat(own).map(|(_, start)| start);
        assert!(is_running(&member));
        member.began = member.began.map(|began| began - 1);
        assert!(!is_running(&member));
        assert!(!signal(&member, Signal::KILL).unwrap());
    }

    #[test]
    fn a_taken_port_names_the_way_out() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut member = Layout::new(1, 1, 0, 1).unwrap().stores.remove(0);
        member.addr = listener.local_addr().unwrap().to_string();
        let failure = check_ports([&member].into_iter()).unwrap_err();
        assert_eq!(failure.kind(), Kind::PortTaken);
        assert!(failure.to_string().contains("--port-offset"), "{failure}");
        assert!(failure.to_string().contains(&member.addr), "{failure}");
    }
}
