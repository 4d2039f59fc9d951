//! Runs the compose file's services as processes: names of services and their ports become free
//! ports of loopback, volumes become folders, files of an image become those that were built.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::eventually::eventually_blocking;
use e2e::process::Process;
use e2e::{paths, ports};
use regex_lite::{Captures, Regex};

use crate::file::{Condition, Service, Source, Stage, services, stages};

/// All services of the compose file.
pub(crate) struct Compose {
    services: Vec<Service>,
    stages: BTreeMap<String, Stage>,
    folder: PathBuf,
    ports: HashMap<(String, u16), u16>,
    running: HashMap<String, Process>,
}

impl Compose {
    /// Reads the files; keeps what it writes in `target/e2e/<name>`.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let root = paths::root();
        Ok(Self {
            services: services(&root)?,
            stages: stages(&root)?,
            folder: paths::fresh_folder(name)?,
            ports: HashMap::new(),
            running: HashMap::new(),
        })
    }

    /// `docker compose up`: starts every service once its conditions hold.
    pub(crate) fn up(&mut self) -> anyhow::Result<()> {
        let mut waiting: Vec<usize> = (0..self.services.len()).collect();
        while !waiting.is_empty() {
            let ready = waiting.iter().position(|&index| {
                let on = &self.services[index].depends_on;
                on.iter().all(|(name, _)| self.running.contains_key(name))
            });
            let index = waiting.remove(ready.context("services wait for each other")?);
            for (on, condition) in self.services[index].depends_on.clone() {
                self.wait_for(&on, condition)?;
            }
            self.start(index)?;
        }
        Ok(())
    }

    /// `docker compose stop`: volumes are in memory and go too.
    pub(crate) fn down(&mut self) -> anyhow::Result<()> {
        for service in self.services.iter().rev() {
            if let Some(mut process) = self.running.remove(&service.name) {
                process.stop(Duration::from_secs(20))?;
            }
        }
        Ok(fs::remove_dir_all(self.folder.join("volumes"))?)
    }

    /// Waits for a service as another one's `depends_on` would.
    pub(crate) fn wait_for(&mut self, name: &str, condition: Condition) -> anyhow::Result<()> {
        match condition {
            Condition::Completed => {
                let code = self.completed(name)?;
                ensure!(
                    code == 0,
                    "{name} ended with {code}:\n{}",
                    self.output(name)
                );
                self.drop_unused_volumes()?;
            }
            Condition::Healthy => {
                let index = self.index(name)?;
                let mut check = self.health_command(index)?;
                let retries = self.services[index]
                    .health
                    .as_ref()
                    .map_or(1, |it| it.retries);
                let process = self.running.get_mut(name).context("not started")?;
                eventually_blocking(name, Duration::from_secs(retries), || {
                    process.check_running()?;
                    let output = check.output()?;
                    let said = String::from_utf8_lossy(&output.stderr);
                    ensure!(output.status.success(), "{name} is not healthy: {said}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// A volume in memory is gone as soon as no running container has it.
    fn drop_unused_volumes(&mut self) -> anyhow::Result<()> {
        let mut used = Vec::new();
        for service in &self.services {
            let running = self
                .running
                .get_mut(&service.name)
                .map(|it| it.ended().is_none());
            if running == Some(true) {
                used.extend(
                    service
                        .mounts
                        .iter()
                        .filter_map(|mount| match &mount.source {
                            Source::Volume(name) => Some(name.as_str()),
                            Source::File(_) => None,
                        }),
                );
            }
        }
        for entry in fs::read_dir(self.folder.join("volumes"))? {
            let entry = entry?;
            if !used.iter().any(|name| entry.file_name() == *name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn completed(&mut self, name: &str) -> anyhow::Result<i32> {
        let process = self.running.get_mut(name).context("not started")?;
        eventually_blocking(name, Duration::from_secs(120), || {
            process
                .ended()
                .with_context(|| format!("still running:\n{}", process.output()))
        })
    }

    /// What a service has printed.
    pub(crate) fn output(&self, name: &str) -> String {
        self.running
            .get(name)
            .map(Process::output)
            .unwrap_or_default()
    }

    /// Where a service's port is here.
    pub(crate) fn port(&mut self, service: &str, port: u16) -> anyhow::Result<u16> {
        port_of(&mut self.ports, service, port)
    }

    fn index(&self, name: &str) -> anyhow::Result<usize> {
        let found = self
            .services
            .iter()
            .position(|service| service.name == name);
        found.with_context(|| format!("no service {name}"))
    }

    fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let service = &self.services[index];
        let stage = self.stages.get(&service.target).context("no such target")?;
        let argv = [&stage.entrypoint[..], &service.command[..]].concat();
        let command = self.translate(index)?.command(&argv)?;
        let name = self.services[index].name.clone();
        let log = self.folder.join(format!("{name}.log"));
        self.running
            .insert(name.clone(), Process::spawn(&name, &log, &command)?);
        Ok(())
    }

    fn health_command(&mut self, index: usize) -> anyhow::Result<Command> {
        let health = self.services[index]
            .health
            .as_ref()
            .context("no health check")?;
        let argv = health.command.clone();
        let mut command = self.translate(index)?.command(&argv)?;
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn translate(&mut self, index: usize) -> anyhow::Result<Translation<'_>> {
        let service = &self.services[index];
        let names: Vec<String> = self.services.iter().map(|it| it.name.clone()).collect();
        let mut translation = Translation {
            service,
            names,
            ports: &mut self.ports,
            paths: Vec::new(),
            bin: self.folder.join("images").join(&service.target),
        };
        let stage = self.stages.get(&service.target).context("no such target")?;
        translation.add_image(stage)?;
        translation.add_mounts(&self.folder)?;
        Ok(translation)
    }
}

/// From a container's view of the world to this machine's.
struct Translation<'a> {
    service: &'a Service,
    names: Vec<String>,
    ports: &'a mut HashMap<(String, u16), u16>,
    /// Container paths and what stands for them.
    paths: Vec<(String, PathBuf)>,
    /// Stands for `/usr/local/bin`.
    bin: PathBuf,
}

impl Translation<'_> {
    fn add_image(&mut self, stage: &Stage) -> anyhow::Result<()> {
        fs::create_dir_all(&self.bin)?;
        let mut programs = Vec::new();
        if stage.base.starts_with("envoyproxy/envoy:") {
            programs.push(paths::envoy()?);
        }
        for (from, source, target) in &stage.copies {
            match (from.as_str(), source.as_str()) {
                ("build", "/out/plugin.wasm") => {
                    self.paths.push((target.clone(), paths::filter_wasm()?));
                }
                // An empty folder, for its owner's sake.
                ("build", "/out/ledger") => {}
                ("build", program) => {
                    let name = program.strip_prefix("/out/").context("not built there")?;
                    programs.push(paths::program(name)?);
                }
                ("build-lightning", "/out/") => {
                    for name in ["btcd", "btcctl", "lnd", "lncli"] {
                        programs.push(paths::tool(&format!("lightning/{name}"))?);
                    }
                }
                other => bail!("nothing stands for {other:?}"),
            }
        }
        for program in programs {
            let link = self.bin.join(program.file_name().context("no name")?);
            if !link.exists() {
                symlink(&program, &link)?;
            }
        }
        self.paths
            .push(("/usr/local/bin".to_owned(), self.bin.clone()));
        Ok(())
    }

    fn add_mounts(&mut self, folder: &Path) -> anyhow::Result<()> {
        let mut files = Vec::new();
        for mount in &self.service.mounts {
            let here = match &mount.source {
                Source::Volume(name) => {
                    let here = folder.join("volumes").join(name);
                    fs::create_dir_all(&here)?;
                    here
                }
                Source::File(file) => {
                    let name = file.file_name().context("no name")?;
                    let here = folder.join("files").join(&self.service.name).join(name);
                    // Once only: the service may be reading it.
                    if !here.exists() {
                        fs::create_dir_all(here.parent().context("no folder")?)?;
                        fs::copy(file, &here)?;
                        files.push(here.clone());
                    }
                    here
                }
            };
            self.paths.push((mount.target.clone(), here));
        }
        self.paths
            .sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        // Files name paths and services too; scripts get theirs from the environment.
        for file in files
            .iter()
            .filter(|file| file.extension() != Some("sh".as_ref()))
        {
            let text = fs::read_to_string(file)?;
            fs::write(file, self.text(&text)?)?;
        }
        Ok(())
    }

    fn command(&mut self, argv: &[String]) -> anyhow::Result<Command> {
        let argv: Vec<String> = argv
            .iter()
            .map(|arg| self.text(arg))
            .collect::<Result<_, _>>()?;
        let (program, args) = argv.split_first().context("no command")?;
        let known = self.bin.join(program);
        let mut command = Command::new(if known.exists() {
            known.as_os_str()
        } else {
            program.as_ref()
        });
        command.args(args);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.bin.display()));
        for (name, value) in &self.service.environment.clone() {
            command.env(name, self.text(value)?);
        }
        Ok(command)
    }

    /// `text` with paths, and hosts with their ports, as they are here.
    fn text(&mut self, text: &str) -> anyhow::Result<String> {
        let mut text = text.to_owned();
        for (target, here) in &self.paths {
            text = text.replace(target, &here.display().to_string());
        }
        let hosts = format!(r"{}|0\.0\.0\.0|127\.0\.0\.1", self.names.join("|"));
        // `name:port`, and bash's `/dev/tcp/127.0.0.1/port`.
        let pairs = Regex::new(&format!(r"\b({hosts})([:/])(\d{{4,5}})\b"))?;
        let text = self.addresses(&pairs, &text, |port, found| {
            format!("127.0.0.1{}{port}", &found[2])
        })?;
        // Envoy's way; a health check that names only a port has the host of its endpoint above.
        let envoy = Regex::new(&format!(
            r"(?:address: ({hosts}), |(health_check_config): \{{ )port_value: (\d+)"
        ))?;
        self.addresses(&envoy, &text, |port, found| match found.get(2) {
            Some(_) => format!("health_check_config: {{ port_value: {port}"),
            None => format!("address: 127.0.0.1, port_value: {port}"),
        })
    }

    /// Replaces each match of `pattern`: group 1 is the host, if it is named, and 3 the port.
    fn addresses(
        &mut self,
        pattern: &Regex,
        text: &str,
        write: impl Fn(u16, &Captures<'_>) -> String,
    ) -> anyhow::Result<String> {
        let mut result = String::new();
        let mut end = 0;
        let mut service = self.service.name.clone();
        for found in pattern.captures_iter(text) {
            let whole = found.get(0).context("no match")?;
            if let Some(host) = found.get(1) {
                let named = self.names.iter().find(|name| *name == host.as_str());
                service.clone_from(named.unwrap_or(&self.service.name));
            }
            let port = port_of(self.ports, &service, found[3].parse()?)?;
            result.push_str(&text[end..whole.start()]);
            result.push_str(&write(port, &found));
            end = whole.end();
        }
        result.push_str(&text[end..]);
        Ok(result)
    }
}

fn port_of(
    ports: &mut HashMap<(String, u16), u16>,
    service: &str,
    port: u16,
) -> anyhow::Result<u16> {
    if let Some(here) = ports.get(&(service.to_owned(), port)) {
        return Ok(*here);
    }
    let here = ports::free()?;
    ports.insert((service.to_owned(), port), here);
    Ok(here)
}
