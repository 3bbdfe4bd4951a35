//! What people see is what programs read: each column of a table against the field of the JSON that it shows.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::{Cluster, wait_for};

use super::shown;

/// A row, by the names of its columns.
type Row<'a> = BTreeMap<&'a str, &'a str>;

/// The rows below a head of exactly these columns, up to a blank line.
fn rows<'a>(text: &'a str, columns: &[&'a str]) -> Result<Vec<Row<'a>>> {
    let names = columns.iter().flat_map(|column| column.split(' '));
    let is_head = |line: &&str| line.split_whitespace().eq(names.clone());
    let mut lines = text.lines().skip_while(|line| !is_head(line));
    let head = lines
        .next()
        .with_context(|| format!("no columns {columns:?} in: {text}"))?;
    let mut starts = Vec::new();
    let mut at = 0;
    for column in columns {
        at += head[at..].find(column).context("a column")?;
        starts.push(at);
        at += column.len();
    }
    starts.push(usize::MAX);
    let row = |line: &'a str| -> Row<'a> {
        let places = columns.iter().zip(starts.windows(2));
        let cell = |place: &[usize]| line.get(place[0]..place[1].min(line.len()));
        places
            .map(|(column, place)| (*column, cell(place).unwrap_or_default().trim()))
            .collect()
    };
    Ok(lines.take_while(|line| !line.is_empty()).map(row).collect())
}

/// The value beside a name, of those that stand above or without a table.
fn fact<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    let value = text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?;
        value.starts_with("  ").then(|| value.trim())
    });
    value.with_context(|| format!("no {name} in: {text}"))
}

/// Whether a cell shows a field as it is, but for the spaces between thousands.
fn same(cell: &str, field: &Value) -> Result<()> {
    let text = match field {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let words: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            words.join(" ")
        }
        other => other.to_string(),
    };
    let plain = match field {
        Value::Number(_) => cell.replace(' ', ""),
        _ => cell.to_owned(),
    };
    ensure!(plain == text, "`{cell}` and not {field}");
    Ok(())
}

/// Whether a cell shows a number of bytes, rounded.
fn same_bytes(cell: &str, field: &Value) -> Result<()> {
    let (number, unit) = cell.split_once(' ').context("a number and its unit")?;
    let power = ["B", "KiB", "MiB", "GiB", "TiB"]
        .iter()
        .position(|known| *known == unit);
    let power = power.with_context(|| format!("the unit of {cell}"))?;
    let shown = number.parse::<f64>()? * 1024f64.powi(power as i32);
    let bytes = field.as_f64().context("a number")?;
    ensure!(
        (shown - bytes).abs() <= bytes * 0.06,
        "`{cell}` and not {bytes} bytes"
    );
    Ok(())
}

/// Waits until a command shows in one form what it shows in the other: between the two something may have changed.
async fn agree(
    cluster: &Cluster,
    args: &[&str],
    compare: impl Fn(&str, &Value) -> Result<()>,
) -> Result<()> {
    wait_for(&format!("{args:?} says the same twice"), async || {
        let (text, json) = (shown(cluster, args)?, cluster.ask(args)?);
        compare(&text, &json).with_context(|| format!("{text}\n{json:#}"))?;
        Ok(true)
    })
    .await
}

fn list(json: &Value) -> Result<&Vec<Value>> {
    json.as_array().context("a list")
}

/// The table of stores, as two commands show it.
fn are_stores(text: &str, stores: &Value) -> Result<()> {
    let columns = [
        "STORE",
        "ADDRESS",
        "STATE",
        "REGIONS",
        "LEADS",
        "USED",
        "FREE",
        "HEARD OF",
        "LABELS",
        "STATUS PAGE",
    ];
    let (rows, stores) = (rows(text, &columns)?, list(stores)?);
    ensure!(rows.len() == stores.len(), "{} rows", rows.len());
    for (row, store) in rows.iter().zip(stores) {
        for (column, field) in [
            ("STORE", "id"),
            ("ADDRESS", "address"),
            ("STATE", "state"),
            ("REGIONS", "regions"),
            ("LEADS", "leaders"),
            ("LABELS", "labels"),
            ("STATUS PAGE", "status_address"),
        ] {
            same(row[column], &store[field]).context(column)?;
        }
        same_bytes(row["USED"], &store["used_bytes"]).context("USED")?;
        same_bytes(row["FREE"], &store["available_bytes"]).context("FREE")?;
        let heard = row["HEARD OF"].strip_suffix(" s ago").context("HEARD OF")?;
        let (heard, silent) = (heard.parse::<f64>()?, store["silent_ms"].as_f64());
        let between = heard * 1e3 - silent.context("a number")?;
        ensure!(between.abs() < 5_000.0, "HEARD OF is {between} ms off");
    }
    Ok(())
}

/// What stores, regions, operators and schedulers are told to be.
pub async fn compare(cluster: &Cluster) -> Result<()> {
    agree(cluster, &["store", "list"], are_stores).await?;
    agree(cluster, &["status"], |text, status| {
        are_stores(text, &status["stores"])?;
        same(fact(text, "cluster")?, &status["cluster_id"])?;
        same(fact(text, "api version")?, &status["api_version"])?;
        same(fact(text, "replicas")?, &status["replicas"])?;
        let begins = |name, field: &Value, rest: &str| -> Result<()> {
            let told = fact(text, name)?;
            ensure!(told == format!("{field}{rest}"), "{name} {told}");
            Ok(())
        };
        begins("regions", &status["regions"], ", all healthy")?;
        begins("operators", &status["operators_running"], " running")?;
        let term = format!("leader in term {}", status["placement_term"]);
        ensure!(fact(text, "placement")? == term, "{text}");
        Ok(())
    })
    .await?;
    agree(cluster, &["region", "list"], are_regions).await?;
    for region in cluster.regions()? {
        let id = region.id.to_string();
        agree(cluster, &["region", "show", &id], is_region).await?;
    }
    agree(cluster, &["operator", "history"], are_operators).await?;
    let operators = cluster.ask(&["operator", "history"])?;
    let last = operators[0]["id"].to_string();
    agree(cluster, &["operator", "show", &last], is_operator).await?;
    agree(cluster, &["scheduler", "list"], |text, schedulers| {
        let (rows, schedulers) = (rows(text, &["SCHEDULER", "STATE"])?, list(schedulers)?);
        ensure!(rows.len() == schedulers.len());
        for (row, scheduler) in rows.iter().zip(schedulers) {
            same(row["SCHEDULER"], &scheduler["name"])?;
            let state = match scheduler["paused_ms"].as_u64() {
                Some(0) => "runs",
                Some(_) => "paused for ",
                None => bail!("it is paused or not"),
            };
            ensure!(row["STATE"].starts_with(state), "{row:?}");
        }
        Ok(())
    })
    .await?;
    let store = cluster.stores()?[0].to_string();
    agree(cluster, &["plan", "drain", &store], |text, plan| {
        for (name, field) in [
            ("replicas to copy", "moves"),
            ("leaders to hand over", "transfers"),
            ("regions that miss one", "regions_at_risk"),
            ("regions without a quorum", "regions_unavailable"),
            ("regions without a place", "regions_unplaced"),
        ] {
            same(fact(text, name)?, &plan[field]).context(name)?;
        }
        same_bytes(fact(text, "bytes to copy")?, &plan["bytes"]).context("bytes to copy")
    })
    .await
}

fn are_regions(text: &str, regions: &Value) -> Result<()> {
    let columns = [
        "REGION",
        "START",
        "END",
        "STORES (* LEADS)",
        "TERM",
        "SIZE",
        "KEYS",
    ];
    let (mut rows, regions) = (rows(text, &columns)?, list(regions)?);
    let sum = rows.pop().context("a sum")?;
    ensure!(
        sum["REGION"].starts_with(&regions.len().to_string()),
        "{sum:?}"
    );
    ensure!(rows.len() == regions.len(), "{} rows", rows.len());
    for (row, region) in rows.iter().zip(regions) {
        for (column, field) in [
            ("REGION", "id"),
            ("TERM", "term"),
            ("KEYS", "approximate_keys"),
        ] {
            same(row[column], &region[field]).context(column)?;
        }
        for (column, field, infinite) in [("START", "start", "-inf"), ("END", "end", "+inf")] {
            let edge = region[field].as_str().context("an edge")?;
            let edge = if edge.is_empty() { infinite } else { edge };
            ensure!(row[column] == edge, "{column}: {}", row[column]);
        }
        let stores = list(&region["peers"])?.iter().map(|peer| {
            let leads = peer["store"] == region["leader_store"];
            format!("{}{}", peer["store"], if leads { "*" } else { "" })
        });
        let stores = stores.collect::<Vec<_>>().join(", ");
        ensure!(row["STORES (* LEADS)"] == stores, "{row:?}");
        same_bytes(row["SIZE"], &region["approximate_bytes"]).context("SIZE")?;
    }
    Ok(())
}

fn is_region(text: &str, region: &Value) -> Result<()> {
    same(fact(text, "region")?, &region["id"])?;
    let epoch = format!(
        "conf_ver {}, version {}",
        region["conf_ver"], region["version"]
    );
    ensure!(fact(text, "epoch")? == epoch, "epoch");
    let leader = format!("store {}, term {}", region["leader_store"], region["term"]);
    ensure!(fact(text, "leader")? == leader, "leader");
    let about = |name| -> Result<&str> {
        let value = fact(text, name)?;
        value.strip_prefix("about ").context("about so much")
    };
    same_bytes(about("size")?, &region["approximate_bytes"]).context("size")?;
    same(about("keys")?, &region["approximate_keys"]).context("keys")?;
    let rows = rows(text, &["PEER", "STORE", "ROLE", "STATE"])?;
    let peers = list(&region["peers"])?;
    ensure!(rows.len() == peers.len(), "{} rows", rows.len());
    for (row, peer) in rows.iter().zip(peers) {
        for (column, field) in [("PEER", "id"), ("STORE", "store"), ("ROLE", "role")] {
            same(row[column], &peer[field]).context(column)?;
        }
        ensure!(row["STATE"] == "up to date", "{row:?}");
    }
    Ok(())
}

fn are_operators(text: &str, operators: &Value) -> Result<()> {
    let columns = [
        "OPERATOR", "KIND", "REGION", "STATE", "STEP", "AGE", "CAUSE",
    ];
    let (rows, operators) = (rows(text, &columns)?, list(operators)?);
    ensure!(rows.len() == operators.len(), "{} rows", rows.len());
    for (row, operator) in rows.iter().zip(operators) {
        for (column, field) in [
            ("OPERATOR", "id"),
            ("KIND", "kind"),
            ("REGION", "region"),
            ("STATE", "state"),
        ] {
            same(row[column], &operator[field]).context(column)?;
        }
        let steps = list(&operator["steps"])?.len();
        ensure!(row["STEP"] == format!("{} of {steps}", operator["step"]));
        let age = row["AGE"].strip_suffix(" s").context("AGE")?;
        let later = operator["age_ms"].as_f64().context("a number")? / 1e3 - age.parse::<f64>()?;
        ensure!((-0.1..30.0).contains(&later), "AGE is {later} s off");
        let cause = operator["cause"].as_str().context("a cause")?;
        ensure!(row["CAUSE"].starts_with(cause), "{row:?}");
    }
    Ok(())
}

fn is_operator(text: &str, operator: &Value) -> Result<()> {
    for (name, field) in [
        ("operator", "id"),
        ("kind", "kind"),
        ("region", "region"),
        ("state", "state"),
        ("cause", "cause"),
    ] {
        same(fact(text, name)?, &operator[field]).context(name)?;
    }
    let rows = rows(text, &["STEP", "WHAT", "STATE"])?;
    let steps = list(&operator["steps"])?;
    ensure!(rows.len() == steps.len(), "{} steps", rows.len());
    let done = operator["step"].as_u64().context("a number")?;
    for (number, (row, step)) in (0..).zip(rows.iter().zip(steps)) {
        same(row["STEP"], &Value::from(number + 1))?;
        same(row["WHAT"], step)?;
        if number < done {
            same(row["STATE"], &Value::from("done"))?;
        }
    }
    Ok(())
}
