/* Has Mailpiler's own parser read messages, and prints what it would index of each: a line per field, tab-separated.
 * Built and run by tests/proof/archives. */

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <piler.h>

static void print(const char *file, const char *field, const char *value) {
    printf("%s\t%s\t%s\n", file, field, value);
}

int main(int count, char **files) {
    /* No settings: the defaults. */
    struct config cfg = read_config("/dev/null");
    for (int i = 1; i < count; i++) {
        struct session_data sdata;
        struct parser_state state;
        struct data data;
        struct import import;

        memset(&data, 0, sizeof data);
        memset(&import, 0, sizeof import);
        data.import = &import;
        init_session_data(&sdata, &cfg);
        sdata.sent = 0;
        sdata.delivered = 0;
        snprintf(sdata.ttmpfile, sizeof sdata.ttmpfile, "copyist-%d", i);
        snprintf(sdata.filename, sizeof sdata.filename, "copyist-%d", i);
        snprintf(sdata.tmpframe, sizeof sdata.tmpframe, "copyist-%d.m", i);
        /* Files of its own go beside the message: it is read under a name in the working directory. */
        unlink(sdata.ttmpfile);
        if (symlink(files[i], sdata.ttmpfile) != 0) {
            perror(files[i]);
            return 1;
        }
        state = parse_message(&sdata, 1, &data, &cfg);
        post_parse(&sdata, &state, &cfg);
        print(files[i], "message-id", state.message_id);
        print(files[i], "from", state.b_from);
        print(files[i], "sender", state.b_sender);
        print(files[i], "to", state.b_to);
        print(files[i], "subject", state.b_subject);
        print(files[i], "journal", state.b_journal_to);
        for (int j = 1; j <= state.n_attachments; j++) {
            print(files[i], "attachment", state.attachments[j].filename);
            unlink(state.attachments[j].internalname);
        }
        unlink(sdata.ttmpfile);
        unlink(sdata.tmpframe);
        clearhash(state.boundaries);
    }
    return 0;
}
