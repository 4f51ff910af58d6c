//! S2C events of the user himself: friend requests, cancelled friends, business notices; who has
//! come and gone; and what ends a connection (protocols/imboy.md, *S2C events*).

use super::{Settings, begin_error, begin_frame, begin_message, write_created_at, write_server_ts};
use crate::account::Presence;
use crate::dialect::json::write_string;
use crate::happened::Happened;
use crate::ids::MessageId;
use crate::record::Record;
use crate::relations::{FriendNews, Person};

/// The id of a friend request or its acceptance: a repeated one has the same.
pub(super) fn friend_id(settings: &Settings, happened: &Happened) -> Option<String> {
    let (kind, news) = match happened {
        Happened::FriendAsked(news) => ("af_", news),
        Happened::FriendAccepted(news) => ("afc_", news),
        _ => return None,
    };
    let mut id = kind.as_bytes().to_vec();
    settings.write_id(&news.from, &mut id);
    id.push(b'_');
    settings.write_id(&news.to, &mut id);
    Some(String::from_utf8(id).expect("ids are ASCII"))
}

/// Appends an event of the user `to`'s notices.
pub(super) fn write(
    settings: &Settings,
    happened: &Happened,
    record: &Record<'_>,
    to: &str,
    out: &mut Vec<u8>,
) {
    let xid = record.id.to_xid();
    let friend_id = friend_id(settings, happened);
    let id = friend_id.as_ref().map_or(&xid[..], |id| id.as_bytes());
    begin_frame(settings, id, "S2C", record.sender, to, out);
    out.extend_from_slice(b",\"payload\":{\"msg_type\":");
    match happened {
        Happened::FriendAsked(news) => write_friend_news("apply_friend", news, out),
        Happened::FriendAccepted(news) => write_friend_news("apply_friend_confirm", news, out),
        Happened::AccountCancelled => write_string("user_cancel", out),
        Happened::Noticed { kind, title, content, .. } => {
            write_string(kind, out);
            if !title.is_empty() {
                write_member("title", title, out);
            }
            out.extend_from_slice(b",\"content\":");
            out.extend_from_slice(content.as_bytes());
        }
        other => unreachable!("{other:?} does not happen in notices"),
    }
    out.push(b'}');
    write_created_at(record.time_ms as i64, out);
    write_server_ts(record.time_ms, out);
}

/// The `msg_type` and what is beside it.
fn write_friend_news(kind: &str, news: &FriendNews, out: &mut Vec<u8>) {
    let FriendNews { terms, remark, asker, asked, .. } = news;
    write_string(kind, out);
    write_member("custom_type", kind, out);
    out.extend_from_slice(b",\"content\":\"\",\"from\":{\"source\":");
    write_string(&terms.source, out);
    write_member("msg", &terms.message, out);
    write_member("remark", &terms.remark, out);
    write_member("role", &terms.role, out);
    write_flag("donotlookhim", terms.do_not_look, out);
    write_flag("donotlethimlook", terms.do_not_show, out);
    write_member("nickname", &asker.name, out);
    write_member("avatar", &asker.avatar, out);
    let Person { account, name, avatar, sign, gender, region } = asked;
    out.extend_from_slice(b"},\"to\":{\"account\":");
    write_string(account, out);
    for (key, value) in [("nickname", name), ("avatar", avatar), ("sign", sign)] {
        write_member(key, value, out);
    }
    out.extend_from_slice(b",\"gender\":");
    let gender = if gender.is_empty() { "\"\"" } else { gender };
    out.extend_from_slice(gender.as_bytes());
    write_member("region", region, out);
    write_member("remark", remark, out);
    out.push(b'}');
}

fn write_member(key: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    write_string(value, out);
}

fn write_flag(key: &str, value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(if value { b"\":true" } else { b"\":false" });
}

/// Appends the news that the friend `from` has come, gone or hidden.
pub fn write_presence(
    settings: &Settings,
    id: MessageId,
    from: &str,
    to: &str,
    presence: Presence,
    wall_ms: u64,
    out: &mut Vec<u8>,
) {
    let kind = match presence {
        Presence::Online => "online",
        Presence::Offline => "offline",
        Presence::Hidden => "hide",
    };
    begin_message(settings, &id, "S2C", from, to, out);
    out.extend_from_slice(b",\"payload\":{\"msg_type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\"}");
    write_created_at(wall_ms as i64, out);
    write_server_ts(wall_ms, out);
}

/// Appends the error that the app shows with its title before the connection is closed.
pub fn write_dismissal(title: &str, content: &str, wall_ms: u64, out: &mut Vec<u8>) {
    begin_error(2, None, out);
    out.extend_from_slice(b",\"payload\":{\"title\":");
    write_string(title, out);
    out.extend_from_slice(b",\"content\":");
    write_string(content, out);
    out.push(b'}');
    write_server_ts(wall_ms, out);
}
