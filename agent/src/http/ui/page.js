// Draws what the agent tells. Each event is the whole picture, so nothing here remembers anything but what to call a change, and what stands on the
// page already: what has not changed is left alone, so that a text can be selected and a screen reader is told only what is new.
"use strict";

const EVENTS_MAX = 50;
const RETRY_MS = 3000;
const STALE_MS = 4000;
/** Commits that have waited for so long are more than a slow network. */
const HELD_UP_MS = 2000;
/** As with `pgvigil status`: replay this far behind prolongs a failover. */
const REPLAY_BEHIND_BYTES = 16 * 1024 * 1024;
/** Phases in which writes work, or still work. */
const FREE_PHASES = ["prepare", "hold", "redundancy"];
/** What makes somebody lead. A restart of the primary (`r-`) tells who leads, too; one that was ordered may be a standby's. */
const REIGNS = ["failover", "switchover", "reclaim", "bootstrap", "site_promotion"];
const isReign = (record) => REIGNS.includes(record.kind) || (record.kind === "restart" && record.id.startsWith("r-"));
/** What takes writes from nobody, unless its record says so; that of a primary's restart has its outage when it is done. */
const isHarmless = (record) => ["reinit", "degrade", "discard"].includes(record.kind) || (record.kind === "restart" && record.outcome === "done");
const seen = { leader: undefined, members: new Map(), transitions: new Map(), at: 0, leaseMax: 0, me: "", held: true };

const byId = (id) => document.getElementById(id);

/** An element with a class and its content: text, or other elements. Text is never taken for markup. */
function make(tag, kind, ...content) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...content.filter((one) => one !== null && one !== undefined));
  return element;
}

const drawn = new Map();

/** Puts this into an element, unless it is there already. */
function place(id, ...content) {
  const inside = make("div", "", ...content);
  if (drawn.get(id) === inside.innerHTML) return;
  drawn.set(id, inside.innerHTML);
  byId(id).replaceChildren(...inside.childNodes);
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

/** `2026-11-29 12:28:38Z`, of what some clock has written. */
function moment(at) {
  const text = new Date(at);
  return Number.isNaN(text.getTime()) ? String(at ?? "") : `${text.toISOString().replace("T", " ").slice(0, 19)}Z`;
}

const leads = (member) => member.role === "leader" || member.role === "standby_leader";
const healthy = (member) => member.state === "streaming" || (leads(member) && member.state === "running");
const names = (members) => members.map((member) => member.name ?? member).join(", ");

/** Who could take over from the leader, as far as this agent knows. */
const candidates = (told) => (told.why.standings ?? []).filter((one) => one.may_lead && one.member !== (told.cluster.members ?? []).find(leads)?.name);

/** What the agent says is wrong, in the order of `pgvigil status`. */
function problems(told) {
  const why = told.why;
  const unread = (why.problems ?? []).map((one) => ({ problem: `${one.key} in etcd cannot be understood: ${one.why}` }));
  const lists = [why.parameters, why.slot_problems, why.certificates, why.overruled].flatMap((list) => list ?? []);
  return [...unread, why.not_listening, why.state_dir, ...lists].filter(Boolean);
}

/**
 * Something has been in the way of writes for long. At rest there is no such moment, however long ago the last write was. Of a cluster that has rested, the
 * first write that waits for an instant is told with the age of the one before it: so the picture before must have said the same, where there was one.
 */
function heldUp(beat) {
  const held = beat.worked_ago_ms > HELD_UP_MS;
  const before = seen.held;
  seen.held = held;
  return held && before;
}

/** One word and one sentence, from what this agent knows. */
function verdict(told) {
  const held = heldUp(told.beat);
  const members = told.cluster.members ?? [];
  const leader = members.find(leads);
  if (!leader) return ["bad", "✖ NO LEADER", "nobody holds the leader lock"];
  const mine = told.beat.leader === true;
  const follows = leader.role === "standby_leader";
  if (mine && !follows && told.beat.writable !== true) return ["bad", "✖ NO WRITES", `${leader.name} holds the lock, and does not accept writes`];
  if (mine && !follows && held) return ["bad", "✖ NO WRITES", `no commit is acknowledged on ${leader.name}`];
  const overruled = (code) => (told.why.overruled ?? []).some((one) => one.code === code);
  const forbidden = overruled("writes_forbidden") ? `${leader.name} could take writes, but a setting forbids them to every client` : null;
  const writes = follows ? `this site follows another, led by ${leader.name}` : forbidden ?? (mine ? `writes work on ${leader.name}` : `${leader.name} leads`);
  const ill = members.filter((member) => !leads(member) && !healthy(member));
  const silent = members.filter((member) => typeof member.acknowledges_nothing_ms === "number");
  const elsewhere = members.filter((member) => healthy(member) && member.timeline && leader.timeline && member.timeline !== leader.timeline);
  // What others have replayed only the leader knows at this moment.
  const behind = mine ? members.filter((member) => healthy(member) && member.replay_lag > REPLAY_BEHIND_BYTES) : [];
  const [first, ...more] = problems(told);
  const wrong = [
    healthy(leader) ? null : `its Postgres is ${leader.state}`,
    told.missing?.length ? `down: ${names(told.missing)}` : null,
    ill.length ? `not streaming: ${names(ill)}` : null,
    told.cluster.pause ? "paused, so nothing fails over" : null,
    told.why.etcd_age_ms > STALE_MS ? "etcd is out of sight" : null,
    silent.length ? `acknowledging nothing: ${names(silent)}` : null,
    elsewhere.length ? `on another timeline: ${names(elsewhere)}` : null,
    behind.length ? `far behind with replay: ${names(behind)}` : null,
    overruled("durability_overruled") ? "a failover now may lose acknowledged writes, by a setting" : null,
    first ? `${first.problem}${more.length ? `; ${more.length} more below` : ""}` : null,
    follows || candidates(told).length || members.length < 2 ? null : "nobody could take over",
  ].filter(Boolean);
  if (wrong.length) return ["doubtful", "▲ DEGRADED", [writes, ...wrong].join("; ")];
  return ["good", "● OK", mine || follows ? writes : `${writes}; whether it takes writes, its own page says`];
}

function notes(told) {
  const found = [];
  if (told.cluster.pause) found.push(`Nothing fails over: automatic actions are paused ${told.pause ?? ""}. HINT: pgvigil resume`);
  if (told.cluster.pgvigil?.hold) found.push("Planned actions are held; failovers are not. HINT: pgvigil release");
  for (const name of told.missing ?? []) found.push(`${name} is down: its agent is not registered in etcd. HINT: start the agent on ${name}; its log says why it ended`);
  for (const { problem, hint } of problems(told)) found.push(hint ? `${problem}. HINT: ${hint}` : problem);
  if (told.why.etcd_age_ms > STALE_MS) found.push(`This agent has not seen etcd for ${span(told.why.etcd_age_ms)}: what it says of others is as old.`);
  return found.map((text) => make("li", "", text));
}

function cell(label, kind, ...content) {
  const element = make("td", kind, ...content);
  element.setAttribute("role", "cell");
  element.dataset.label = label;
  return element;
}

function row(name, depth, ...cells) {
  const head = make("th", depth ? `deep${Math.min(depth, 2)}` : "", depth ? make("span", "small", "└ ") : null, name);
  head.setAttribute("role", "rowheader");
  head.scope = "row";
  if (depth) head.firstChild.setAttribute("aria-hidden", "true");
  const element = make("tr", "", head, ...cells);
  element.setAttribute("role", "row");
  return element;
}

/** The page of another agent. */
function page(member) {
  try {
    const url = new URL("/ui", member.api_url);
    if (!["http:", "https:"].includes(url.protocol)) return null;
    const link = make("a", "one-line", `page of ${member.name}`);
    link.href = url.href;
    return link;
  } catch { return null; }
}

function memberRow(member, depth, told) {
  const standing = (told.why.standings ?? []).find((one) => one.member === member.name);
  const bars = (standing?.bars ?? []).filter((bar) => bar.code !== "is_leader").map((bar) => bar.sentence);
  const may = leads(member) ? "leads" : !standing ? "not known" : bars.length ? make("span", "why", `no: ${bars.join("; ")}`) : "yes";
  const place = [member.tags?.zone, member.host && `${member.host}:${member.port}`].filter(Boolean).join(", ");
  const fine = healthy(member);
  const lag = leads(member) ? "-" : bytes(member.lag);
  const link = member.name === told.why.member ? null : page(member);
  return row(member.name, depth,
    cell("Role", "", member.role.replaceAll("_", " ")),
    cell("State", "one-line", make("span", fine ? "good" : "bad", `${fine ? "●" : "✖"} ${member.state}`)),
    cell("Timeline", "", String(member.timeline ?? "-")),
    cell("Lag", "", lag),
    cell("May lead", bars.length ? "wide" : "", may),
    cell("Address", "small wide", place, link && " ", link));
}

/** The leader, below it who streams from it, below those who streams from them; and at the end whoever ought to be there. */
function memberRows(told) {
  const members = told.cluster.members ?? [];
  const leader = members.find(leads);
  const known = new Set(members.map((member) => member.name));
  const upstream = (member) => {
    const named = member.tags?.replicatefrom;
    return named && known.has(named) && named !== member.name ? named : leader?.name;
  };
  const placed = new Set();
  const branch = (member, depth) => {
    placed.add(member.name);
    const rows = [memberRow(member, depth, told)];
    for (const other of members) if (!leads(other) && !placed.has(other.name) && upstream(other) === member.name) rows.push(...branch(other, depth + 1));
    return rows;
  };
  const rows = leader ? branch(leader, 0) : [];
  for (const member of members) if (!placed.has(member.name)) rows.push(...branch(member, 0));
  for (const name of told.missing ?? []) {
    rows.push(row(name, 0, cell("Role", "", "-"), cell("State", "one-line", make("span", "bad", "✖ down")), cell("Timeline", "", "-"), cell("Lag", "", "-"),
      cell("May lead", "wide", make("span", "why", "no: its agent is not registered in etcd")), cell("Address", "small wide", "-")));
  }
  return rows;
}

function lease(told) {
  const left = told.beat.lease_left_ms;
  byId("lease").hidden = typeof left !== "number";
  if (typeof left !== "number") return;
  seen.leaseMax = Math.max(seen.leaseMax, left);
  byId("lease").querySelector("span").textContent = `lease of ${told.why.member}: ${span(left)} left`;
  byId("lease").querySelector(".fill").style.width = `${(100 * left) / (seen.leaseMax || 1)}%`;
}

/** A part of a bar: what fits is seen, all of it is told. */
function part(tag, kind, label, rest, share) {
  const element = make(tag, kind, make("span", "label", label), rest && make("span", "hidden", rest));
  element.style.flexGrow = String(Math.max(1, Math.round(share)));
  element.title = `${label}${rest ?? ""}`;
  return element;
}

/** Who led from when to when, as the records have it. */
function reigns(told, now) {
  const changes = (told.transitions ?? []).filter((record) => record.to && record.outcome === "done" && record.started_at && isReign(record));
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
  const parts = periods.map((period) => {
    const took = period.end - period.begin;
    return part("li", "", period.who, ` from ${moment(period.begin)}${period.end === now ? " until now" : `, for ${span(took)}`}`, (1000 * took) / whole);
  });
  return [parts, `from ${moment(periods[0].begin)} until now (${span(whole)}), by the records of transitions`];
}

/** What did not happen, and why. */
function refused(record) {
  const length = (record.phases ?? []).find((phase) => phase.name === "without_primary")?.duration_ms;
  const ended = record.outcome === "in_progress" ? "nobody leads still" : `until ${record.to ?? "somebody"} led`;
  return make("li", "",
    make("div", "", make("b", "", "✋ did not fail over "), `${record.from ?? "-"} had led, ${ended}${typeof length === "number" ? `, ${span(length)} without a primary` : ""}`),
    make("div", "small", `${moment(record.started_at)}, ${record.id}: ${record.cause}: ${record.cause_text ?? ""}`));
}

const LOST = { none: "nothing lost", unknown: "how much was lost is not known" };

function transition(record) {
  if (record.kind === "refused") return refused(record);
  const least = record.write_outage_at_least ? "≥ " : "";
  const phases = record.phases ?? [];
  const bar = make("div", "bar", ...phases.map((phase) => part("div", FREE_PHASES.includes(phase.name) ? "free" : "", phase.name, null, phase.duration_ms)));
  bar.setAttribute("aria-hidden", "true");
  const told = make("ul", "phases-told", ...phases.map((phase) => make("li", "", `${phase.name} ${span(phase.duration_ms)} on ${phase.measured_on}`)));
  const outage = typeof record.write_outage_ms === "number" ? `no writes for ${least}${span(record.write_outage_ms)}` : record.outcome === "refused" ? "nothing was done" : isHarmless(record) ? "no writes affected" : "outage not known";
  const [sign, kind] = record.outcome === "done" ? ["●", "good"] : record.outcome === "in_progress" ? ["…", ""] : ["✖", "bad"];
  const lost = LOST[record.lost] ?? (typeof record.lost_bytes_bound === "number" ? `${bytes(record.lost_bytes_bound)}${record.kind === "discard" ? "" : " or more"} lost` : LOST.unknown);
  const way = record.from && record.to && record.from !== record.to ? `${record.from} → ${record.to}` : `on ${record.to ?? record.from ?? "nobody"}`;
  const by = record.requested_by ? `, asked for by ${record.requested_by}` : "";
  return make("li", "",
    make("div", "", make("b", "", `${record.kind.replaceAll("_", " ")} ${way}`), " ", make("span", kind, `${sign} ${record.outcome.replaceAll("_", " ")}`), `, ${outage}, ${lost}`),
    make("div", "small", `${moment(record.started_at)}, ${record.id}${by}: ${record.cause_text ?? ""}${record.reason ? ` (${record.reason})` : ""}`),
    phases.length ? bar : null,
    phases.length ? told : null);
}

function tellEvent(text) {
  const list = byId("events");
  if (!list.dataset.begun) { list.replaceChildren(); list.dataset.begun = "yes"; }
  list.prepend(make("li", "", make("time", "", `${new Date().toISOString().slice(11, 21)}Z`), text));
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
  place("slo-text", told.slo.sentence ?? "");
  const left = Math.max(0, Math.min(1, told.slo.budget_left_ratio ?? 0));
  byId("slo").querySelector(".fill").style.width = `${100 * left}%`;
}

function drawVerdict([kind, word, sentence]) {
  document.title = `${word.slice(2)} ${seen.scope ?? ""} - pgvigil`;
  place("verdict", make("span", kind, word), ` - ${sentence}`);
}

function draw(told) {
  Object.assign(seen, { at: Date.now(), me: told.why.member, scope: told.cluster.scope });
  place("cluster", told.cluster.scope);
  place("me", told.why.member);
  drawVerdict(verdict(told));
  seen.sentence = told.why.sentence;
  place("sentence", `${told.why.member}: ${told.why.sentence}`);
  place("notes", ...notes(told));
  place("members", ...memberRows(told));
  lease(told);
  const [parts, scale] = reigns(told, Date.now());
  place("reigns", ...parts);
  place("reigns-scale", scale);
  place("transitions", ...[...(told.transitions ?? [])].reverse().map(transition));
  budget(told);
  tellChanges(told);
  tellLink();
}

/** Where nothing is heard any more, the page must not go on saying that all is well. */
function tellLink() {
  const age = Date.now() - seen.at;
  const stale = seen.at > 0 && age >= STALE_MS;
  document.body.classList.toggle("stale", stale);
  if (stale) {
    drawVerdict(["bad", "✖ UNKNOWN", `the agent of ${seen.me} is not heard any more: below is how it was`]);
    place("sentence", `${seen.me} said last: ${seen.sentence}`);
  }
  place("link", !seen.at ? "connecting …" : stale ? `✖ nothing heard for ${span(age)}` : "● live");
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
