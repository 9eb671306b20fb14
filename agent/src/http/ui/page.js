// Draws what the agent tells. Each event is the whole picture, so nothing here remembers anything but what to call a change.
"use strict";

const EVENTS_MAX = 50;
const RETRY_MS = 3000;
const STALE_MS = 4000;
const seen = { leader: undefined, members: new Map(), transitions: new Map(), at: 0, leaseMax: 0 };

const byId = (id) => document.getElementById(id);

/** An element with a class and its content: text, or other elements. Text is never taken for markup. */
function make(tag, kind, ...content) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...content.filter((one) => one !== null && one !== undefined));
  return element;
}

function bytes(count) {
  if (typeof count !== "number") return "unknown";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return unit === 0 ? `${count} B` : `${count.toFixed(1)} ${units[unit]}`;
}

function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 5400000) return `${Math.round(ms / 60000)} min`;
  return ms < 172800000 ? `${Math.round(ms / 3600000)} h` : `${Math.round(ms / 86400000)} d`;
}

const leads = (member) => member.role === "leader" || member.role === "standby_leader";
const healthy = (member) => ["running", "streaming"].includes(member.state);

/** One word and one sentence, from what this agent knows. */
function verdict(told) {
  const members = told.cluster.members ?? [];
  const leader = members.find(leads);
  if (!leader) return ["bad", "✖ NO LEADER", "nobody holds the leader lock"];
  const mine = told.beat.leader === true;
  const follows = leader.role === "standby_leader";
  if (mine && !follows && told.beat.writable !== true) return ["bad", "✖ NO WRITES", `${leader.name} holds the lock, and does not accept writes`];
  const ill = members.filter((member) => !leads(member) && member.state !== "streaming");
  const writes = follows ? `this site follows another, led by ${leader.name}` : `${leader.name} leads`;
  if (!healthy(leader)) return ["doubtful", "▲ DEGRADED", `${leader.name} holds the lock, and its Postgres is ${leader.state}`];
  if (ill.length) return ["doubtful", "▲ DEGRADED", `${writes}; not streaming: ${ill.map((member) => member.name).join(", ")}`];
  return ["good", "● OK", mine || follows ? writes : `${writes}; whether it takes writes, its own page says`];
}

function notes(told) {
  const found = [];
  if (told.cluster.pause) found.push("Automatic actions are paused: nothing fails over (pgvigil resume).");
  if (told.cluster.pgvigil?.hold) found.push("Planned actions are held; failovers are not (pgvigil release).");
  for (const problem of told.why.problems ?? []) found.push(`${problem.key} in etcd cannot be understood: ${problem.why}`);
  for (const problem of [told.why.state_dir, told.why.not_listening, ...(told.why.certificates ?? []), ...(told.why.parameters ?? []), ...(told.why.overruled ?? []), ...(told.why.slot_problems ?? [])]) {
    if (problem) found.push(`${problem.problem}. ${problem.hint}`);
  }
  if (typeof told.why.etcd_age_ms === "number" && told.why.etcd_age_ms > STALE_MS) {
    found.push(`This agent has not seen etcd for ${span(told.why.etcd_age_ms)}: what follows is as old.`);
  }
  return found.map((text) => make("li", "", text));
}

function card(member, told) {
  const standing = (told.why.standings ?? []).find((one) => one.member === member.name);
  const bars = (standing?.bars ?? []).filter((bar) => bar.code !== "is_leader").map((bar) => bar.sentence);
  const place = [member.tags?.zone, member.host && `${member.host}:${member.port}`].filter(Boolean).join(", ");
  const lag = leads(member) ? null : make("span", "", `lag ${bytes(member.lag)}`);
  const fine = healthy(member);
  return make("div", leads(member) ? "member leads" : "member",
    make("b", "", member.name),
    make("span", "", member.role.replaceAll("_", " ")),
    make("span", fine ? "good" : "bad", `${fine ? "●" : "✖"} ${member.state}`),
    make("span", "", `timeline ${member.timeline ?? "-"}`),
    lag,
    make("span", "small", place),
    !leads(member) && bars.length ? make("div", "why", `may not lead: ${bars.join("; ")}`) : null);
}

/** The leader, below it who streams from it, and below those who streams from them. */
function topology(told) {
  const members = told.cluster.members ?? [];
  const leader = members.find(leads);
  const names = new Set(members.map((member) => member.name));
  const upstream = (member) => {
    const named = member.tags?.replicatefrom;
    return named && names.has(named) && named !== member.name ? named : leader?.name;
  };
  const drawn = new Set();
  const branch = (member) => {
    drawn.add(member.name);
    const below = members.filter((other) => !leads(other) && !drawn.has(other.name) && upstream(other) === member.name);
    return make("li", "", card(member, told), below.length ? make("ul", "", ...below.map(branch)) : null);
  };
  const roots = leader ? [branch(leader)] : [];
  return roots.concat(members.filter((member) => !drawn.has(member.name)).map(branch));
}

function lease(told) {
  const left = told.beat.lease_left_ms;
  byId("lease").hidden = typeof left !== "number";
  if (typeof left !== "number") return;
  seen.leaseMax = Math.max(seen.leaseMax, left);
  byId("lease").querySelector("span").textContent = `lease of ${told.why.member}: ${span(left)} left`;
  byId("lease").querySelector(".fill").style.width = `${(100 * left) / (seen.leaseMax || 1)}%`;
}

/** Who led from when to when, as the records have it. */
function reigns(told, now) {
  const changes = (told.transitions ?? []).filter((record) => record.to && record.outcome === "done" && record.started_at);
  changes.sort((one, other) => Date.parse(one.started_at) - Date.parse(other.started_at));
  const periods = [];
  for (const record of changes) {
    const last = periods.at(-1);
    if (last?.who === record.to) continue;
    if (last) last.end = Date.parse(record.started_at);
    periods.push({ who: record.to, begin: Date.parse(record.started_at), end: now });
  }
  if (!periods.length) return [[], "no record so far"];
  const whole = Math.max(1, now - periods[0].begin);
  const drawn = periods.map((period) => {
    const element = make("div", "", period.who);
    element.style.flexGrow = String(Math.max(1, Math.round((1000 * (period.end - period.begin)) / whole)));
    element.title = `${period.who} from ${new Date(period.begin).toISOString()}, for ${span(period.end - period.begin)}`;
    return element;
  });
  return [drawn, `from ${new Date(periods[0].begin).toISOString().replace("T", " ").slice(0, 19)}Z until now (${span(whole)})`];
}

/** What did not happen, and why. */
function refused(record) {
  const length = (record.phases ?? []).find((phase) => phase.name === "without_primary")?.duration_ms;
  const ended = record.outcome === "in_progress" ? "nobody leads still" : `until ${record.to ?? "somebody"} led`;
  return make("li", "",
    make("div", "", make("b", "", "✋ did not fail over "), `${record.from ?? "-"} had led, ${ended}${typeof length === "number" ? `, ${span(length)} without a primary` : ""}`),
    make("div", "small", `${record.started_at}  ${record.id}  ${record.cause}: ${record.cause_text ?? ""}`));
}

function transition(record) {
  const phases = (record.phases ?? []).map((phase) => {
    const element = make("div", "", `${phase.name} ${span(phase.duration_ms)}`);
    element.style.flexGrow = String(Math.max(1, Math.round(phase.duration_ms)));
    element.title = `${phase.name}: ${phase.duration_ms.toFixed(1)} ms on ${phase.measured_on}`;
    return element;
  });
  if (record.kind === "refused") return refused(record);
  const least = record.write_outage_at_least ? "≥ " : "";
  const outage = typeof record.write_outage_ms === "number" ? `no writes for ${least}${span(record.write_outage_ms)}` : "outage not known";
  const sign = record.outcome === "done" ? "●" : record.outcome === "in_progress" ? "…" : "✖";
  return make("li", "",
    make("div", "", make("b", "", `${sign} ${record.kind} `), `${record.from ?? "-"} → ${record.to ?? "-"}, ${record.outcome}, ${outage}, lost ${record.lost}`),
    make("div", "small", `${record.started_at}  ${record.id}  ${record.cause_text ?? ""}${record.reason ? ` (${record.reason})` : ""}`),
    phases.length ? make("div", "phases", ...phases) : null);
}

function tellEvent(text) {
  const list = byId("events");
  if (!list.dataset.begun) { list.replaceChildren(); list.dataset.begun = "yes"; }
  list.prepend(make("li", "", make("time", "", new Date().toISOString().slice(11, 21) + "Z"), text));
  while (list.children.length > EVENTS_MAX) list.lastChild.remove();
}

function tellChanges(told) {
  const members = new Map((told.cluster.members ?? []).map((member) => [member.name, `${member.role.replaceAll("_", " ")}, ${member.state}`]));
  const leader = (told.cluster.members ?? []).find(leads)?.name ?? "nobody";
  const records = new Map((told.transitions ?? []).map((record) => [record.id, record.outcome]));
  if (seen.leader !== undefined) {
    if (seen.leader !== leader) tellEvent(`${leader} leads`);
    for (const [name, state] of members) if (seen.members.get(name) !== state) tellEvent(`${name}: ${state}`);
    for (const name of seen.members.keys()) if (!members.has(name)) tellEvent(`${name} is not registered any more`);
    for (const [id, outcome] of records) if (seen.transitions.get(id) !== outcome) tellEvent(`${id}: ${outcome.replaceAll("_", " ")}`);
  }
  Object.assign(seen, { leader, members, transitions: records });
}

function budget(told) {
  byId("slo").hidden = !told.slo;
  if (!told.slo) return;
  byId("slo-text").textContent = told.slo.sentence ?? "";
  const left = Math.max(0, Math.min(1, told.slo.budget_left_ratio ?? 0));
  byId("slo").querySelector(".fill").style.width = `${100 * left}%`;
}

function draw(told) {
  const [kind, word, sentence] = verdict(told);
  document.title = `${word.slice(2)} ${told.cluster.scope} - pgvigil`;
  byId("cluster").textContent = told.cluster.scope;
  byId("me").textContent = told.why.member;
  byId("verdict").replaceChildren(make("span", kind, word), ` - ${sentence}`);
  byId("sentence").textContent = `${told.why.member}: ${told.why.sentence}`;
  byId("notes").replaceChildren(...notes(told));
  byId("topology").replaceChildren(...topology(told));
  lease(told);
  const [drawn, scale] = reigns(told, Date.now());
  byId("reigns").replaceChildren(...drawn);
  byId("reigns-scale").textContent = scale;
  byId("transitions").replaceChildren(...[...(told.transitions ?? [])].reverse().map(transition));
  budget(told);
  tellChanges(told);
  seen.at = Date.now();
  tellLink();
}

function tellLink() {
  const age = Date.now() - seen.at;
  byId("link").textContent = !seen.at ? "connecting …" : age < STALE_MS ? "● live" : `✖ nothing heard for ${span(age)}: this is as it was`;
}

function listen() {
  const source = new EventSource("ui/events");
  source.addEventListener("picture", (event) => {
    draw(JSON.parse(event.data));
  });
  source.onerror = () => {
    source.close();
    setTimeout(listen, RETRY_MS);
  };
}

setInterval(tellLink, 500);
listen();
