"""What the demo model knows: one entry per intent.

Every intent has two kinds of training wordings and a set of wordings that training never sees:

* ``actions``   verb phrases ("start over"); the corpus puts an opening such as "how do I" before them;
* ``questions`` complete questions, used as they are;
* ``heldout``   complete questions for the evaluation only.

The three are multi-line strings, one wording per line, so that the lists stay readable and cheap to extend.
"""

from __future__ import annotations

from dataclasses import dataclass

from wordings import FURTHER_QUESTIONS


@dataclass(frozen=True)
class Intent:
    """One thing a user may want, and what the model should say to it."""

    name: str
    replies: tuple[str, ...]
    expect: tuple[str, ...]
    actions: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    weight: float = 1.0
    small_talk: bool = False


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


def _intent(
    name: str,
    replies: str | tuple[str, ...],
    expect: str | tuple[str, ...],
    actions: str = "",
    questions: str = "",
    heldout: str = "",
    subjects: str = "",
    weight: float = 1.0,
    small_talk: bool = False,
) -> Intent:
    return Intent(
        name=name,
        replies=(replies,) if isinstance(replies, str) else replies,
        expect=(expect,) if isinstance(expect, str) else expect,
        actions=_lines(actions),
        questions=_lines(questions) + _lines(FURTHER_QUESTIONS.get(name, "")),
        heldout=_lines(heldout),
        subjects=_lines(subjects),
        weight=weight,
        small_talk=small_talk,
    )


COMMANDS: tuple[Intent, ...] = (
    _intent(
        "help",
        "Type /help to see every command and key.",
        "/help",
        actions="""
        see all commands
        see the list of commands
        list the available commands
        get help
        show the help
        find out which commands exist
        learn the commands
        look up the keyboard shortcuts
        see the key bindings
        get an overview of everything I can type here
        display the help screen""",
        questions="""
        what commands are there?
        which slash commands are available?
        what commands can I use?
        help
        I need help
        help me please
        I am lost
        I am stuck, what now?
        is there a manual?
        is there a list of keys?
        what keys can I press?
        what can I type here?
        what are the commands?
        where is the help?
        I don't know how this works
        I forgot the commands
        how does this program work?""",
        heldout="""
        give me an overview of the slash commands
        what are all the shortcuts in here?
        I have no idea which commands exist
        where can I read up on the available commands?
        could you list the keys and commands for me?
        is there some help page?""",
        subjects="/help",
    ),
    _intent(
        "exit",
        "Type /exit to leave, or press Ctrl-D on an empty line.",
        ("/exit", "Ctrl-D"),
        actions="""
        quit
        exit
        leave
        leave the chat
        quit the program
        close the program
        end the session
        get out of here
        terminate bitnet-chat
        stop the program
        close the chat
        log out
        shut it down
        go back to my shell""",
        questions="""
        how do I get out?
        how do I leave this thing?
        which key leaves the chat?
        I am done, how do I quit?
        what closes the program?
        how does one exit?
        where is the exit?
        I want to leave
        what ends the session?
        I'm finished, how to close this?
        what do I press to quit?""",
        heldout="""
        how can I quit this application?
        I would like to leave now, what should I type?
        what is the proper way to close this chat?
        how do I return to the shell prompt?
        finished for today, how do I end the program?
        which command exits?""",
        subjects="/exit\nCtrl-D",
    ),
    _intent(
        "clear",
        "Type /clear to forget the conversation and start over.",
        "/clear",
        actions="""
        start over
        start a new conversation
        begin a fresh chat
        clear the conversation
        clear the history
        forget everything
        forget what I said
        erase the chat
        delete the whole conversation
        reset the conversation
        wipe the history
        empty the context
        throw away the conversation
        begin again from scratch
        remove all messages
        drop the context
        make you forget all of this""",
        questions="""
        how do I get a blank slate?
        how do I begin from zero?
        new chat please, how?
        can you forget our talk?
        what resets the chat?
        what wipes the context?
        how is the history erased?
        I want a fresh start
        the topic changed, how do I start anew?
        how do I make the context empty again?""",
        heldout="""
        I'd like to wipe our whole chat and begin anew
        how can I reset everything we talked about?
        what makes you forget the previous messages?
        is it possible to start with a clean conversation?
        how do I delete the chat history?
        let's start from scratch, what do I type?""",
        subjects="/clear",
    ),
    _intent(
        "regen",
        "Type /regen to get another answer to your last question.",
        "/regen",
        actions="""
        get another answer
        get a different answer
        regenerate the answer
        regenerate the reply
        retry the last question
        try the same question again
        make you answer again
        have the last reply written again
        redo the answer
        ask the same thing once more
        get a new reply to the same question
        roll the dice again for that reply
        repeat the last question
        get a second attempt at that answer""",
        questions="""
        I don't like that answer, can you try again?
        that answer was bad, how do I get a new one?
        can you answer that again?
        can I have a different reply?
        give me another version of the reply
        how do I reroll?
        one more try please, how?
        what repeats the last question?
        what produces a fresh answer?
        the reply was wrong, how do I retry?""",
        heldout="""
        the last reply was poor, how can I have it redone?
        how would I request an alternative answer?
        make the assistant try its response again, how?
        what do I enter to regenerate your response?
        I want a second version of that answer
        how do I let you retry?""",
        subjects="/regen",
    ),
    _intent(
        "undo",
        "Type /undo to take back your last message and its reply.",
        "/undo",
        actions="""
        undo
        undo my last message
        take back my last message
        remove the last question
        delete the last exchange
        remove the last message
        go back one step
        take back what I just said
        cancel my last message
        withdraw the last question
        drop the last turn
        revert the last message
        retract that
        step back one turn
        unsend a message""",
        questions="""
        I made a mistake in my last message, can I take it back?
        I sent the wrong thing, what now?
        I sent that too early, how do I take it back?
        oops, how do I undo?
        what removes the last turn only?
        forget only my last message
        is there an undo?
        how do I remove just the last question and answer?
        I did not mean to send that""",
        heldout="""
        how can I revoke the message I sent a moment ago?
        my last question was wrong, how do I take it back?
        is it possible to undo the previous turn?
        I'd like to go one step back in our talk
        what removes only the latest question and reply?
        I sent something by mistake, can it be withdrawn?""",
        subjects="/undo",
    ),
    _intent(
        "system",
        "Type /system TEXT in the chat to set the system message.",
        "/system",
        actions="""
        set a system message
        set the system prompt
        change the system prompt
        change the system message while chatting
        give you a role
        give you a persona
        give you standing instructions
        tell you how to behave
        change your personality
        make you talk like a pirate
        replace the instructions in the chat
        give you a new character
        define the role of the assistant""",
        questions="""
        can you play a role?
        can you behave differently?
        where do I put my instructions for you?
        how do I tell you who you should be?
        how do I make you act as a teacher?
        what sets the system prompt in the chat?
        I want you to follow special instructions
        what is the command for the system message?
        can I change your behaviour in the middle of a chat?""",
        heldout="""
        how can I give the assistant a different personality?
        I want to modify the system prompt during the chat
        what do I type so that you act like a teacher?
        how do I set instructions for how you behave?
        is there a command that changes the system message?
        how might I assign you a role?""",
        subjects="/system",
    ),
    _intent(
        "stats",
        "Type /stats to see tokens, speed and context use.",
        "/stats",
        actions="""
        see the speed
        see how fast you are
        see tokens per second
        count the tokens
        see how many tokens were used
        see the statistics
        show statistics
        check how full the context is
        see how much context is left
        measure the speed
        get figures about the last reply
        see the performance numbers
        find out how long the reply took""",
        questions="""
        how fast are you?
        how many tokens have I used?
        how many tokens per second do you make?
        how full is the context?
        how much room is left in the context?
        what is the generation speed?
        where are the statistics?
        how long did that reply take?
        what shows the numbers about this session?
        are there any usage figures?""",
        heldout="""
        where can I look up the number of tokens used?
        I'd like to know your speed in tokens per second
        which command displays statistics?
        how can I check how much of the context is filled?
        show me performance figures for this session, how?
        how quick was the last answer?""",
        subjects="/stats",
    ),
    _intent(
        "model_command",
        "Type /model to see which model is loaded.",
        "/model",
        actions="""
        see which model is loaded
        see the current model
        find out which model is running
        check what model this is
        show the name of the model
        see the model file in use
        know which model I am talking to
        get details about the loaded model""",
        questions="""
        which model is this?
        what model is loaded?
        what model am I using?
        which model is in use right now?
        what is the name of the current model?
        which gguf is loaded?
        what model is active?
        what model is running at the moment?""",
        heldout="""
        how can I check which model is active?
        tell me the name of the model that is loaded
        what command shows the current model?
        which model am I talking to at the moment?
        I want to see what model file is in use""",
        subjects="/model",
    ),
    _intent(
        "send",
        "Press Enter to send your message.",
        "Enter",
        actions="""
        send a message
        send my message
        send the text
        submit my question
        send what I typed
        submit the line
        deliver my message""",
        questions="""
        which key sends the message?
        what sends my text?
        what do I press to send?
        how is a message sent?
        what does Enter do?
        how do I submit?
        I typed a question, what now?
        what does the return key do?
        is Enter the key to send?""",
        heldout="""
        which key do I hit to submit my text?
        how does my message get sent?
        I finished typing, how do I send it?
        what button sends my question?
        what happens when I press return?""",
    ),
    _intent(
        "newline",
        "Press Alt-Enter or Ctrl-J for a new line, or end the line with a backslash.",
        ("Alt-Enter", "Ctrl-J"),
        actions="""
        make a new line
        start a new line
        insert a line break
        type several lines
        write more than one line
        enter a multi-line message
        add a line without sending
        write a message with multiple lines
        break the line
        go to the next line without sending
        put a newline in my message
        write two paragraphs in one message""",
        questions="""
        how do I get a newline?
        how do multi-line messages work?
        which key makes a new line?
        Enter sends my message, but I want another line
        can a message have more than one line?
        what does a trailing backslash do?
        how do I continue on the next line?
        how do I type a long message on several lines?
        is there a key for line breaks?""",
        heldout="""
        how can I write a message that spans multiple lines?
        which shortcut inserts a line break?
        I need a second line before I send, how?
        pressing Enter sends it, how do I add a newline instead?
        can I type several lines in one message?
        what key gives me another line without submitting?""",
        subjects="Alt-Enter\nCtrl-J",
    ),
    _intent(
        "search_history",
        "Press Ctrl-R to search your earlier messages.",
        "Ctrl-R",
        actions="""
        search the history
        search my earlier messages
        find an old message
        find something I typed before
        look for a previous question
        search what I typed yesterday
        find an earlier prompt
        look through my input history
        reuse an older message
        recall a previous line""",
        questions="""
        is there a history search?
        which key searches the history?
        how do I find the question I asked before?
        can I search my old inputs?
        where is my input history?
        I typed it before, how do I find it again?
        how do I get back an old line?
        what is the shortcut for searching past messages?""",
        heldout="""
        how can I look up a question I typed earlier?
        what's the shortcut to search previous inputs?
        I want to find an old message of mine
        can one search through past prompts?
        which key lets me search my history?""",
        subjects="Ctrl-R",
    ),
    _intent(
        "editor",
        "Press Ctrl-X Ctrl-E to write your message in $EDITOR.",
        "Ctrl-X Ctrl-E",
        actions="""
        open an editor
        open my editor
        write the message in vim
        edit the message in an editor
        use nano for my message
        use emacs to write
        compose a long message in my text editor
        edit the prompt with $EDITOR
        write in an external editor
        use my favourite editor
        bring up the editor""",
        questions="""
        which key opens the editor?
        can I use vim here?
        can I write my message in an editor?
        is there a way to use my own editor?
        my text is long, can I edit it in an editor?
        does it support $EDITOR?
        how do I launch the editor?
        what is the editor shortcut?""",
        heldout="""
        how can I compose my prompt in vim?
        is it possible to type in an external text editor?
        what keys launch my $EDITOR?
        I would rather write this in nano, how?
        how do I get the editor to open?""",
        subjects="Ctrl-X Ctrl-E",
    ),
    _intent(
        "complete",
        "Press Tab to complete a command.",
        "Tab",
        actions="""
        complete a command
        autocomplete a command
        let it finish the command for me
        use completion
        complete the name of a command
        avoid typing the whole command
        fill in the rest of a command
        auto-complete slash commands""",
        questions="""
        is there tab completion?
        which key completes commands?
        does it have autocomplete?
        is there autocompletion?
        what does Tab do?
        commands are long to type, is there a shortcut?
        can it finish commands for me?
        what is the Tab key for?""",
        heldout="""
        how can I have commands completed automatically?
        does this chat support autocompletion of commands?
        which key fills in the rest of a slash command?
        what happens if I press the Tab key?
        I'm lazy, can it complete the command name?""",
    ),
    _intent(
        "stop_reply",
        "Press Ctrl-C or Esc to stop the reply.",
        ("Ctrl-C", "Esc"),
        actions="""
        stop the reply
        stop you
        stop you from talking
        interrupt the answer
        interrupt you
        cancel the reply
        cut the answer short
        abort the generation
        make you stop writing
        halt the output
        stop the answer while it is being written
        shut you up
        break off a long reply
        end an answer early""",
        questions="""
        you talk too much, how do I stop you?
        the answer is too long, how do I stop it?
        how do I make you be quiet?
        which key stops the output?
        what interrupts a reply?
        can I stop the reply in the middle?
        what does Esc do?
        how is a running answer cancelled?
        it keeps writing and writing, how do I stop that?""",
        heldout="""
        how can I abort an answer that is still being written?
        you won't stop talking, which key ends it?
        I want to cut off a long answer
        what do I press to interrupt the output?
        is it possible to cancel the reply halfway?
        how do I halt the generation?""",
        subjects="Esc",
    ),
    _intent(
        "clear_line",
        "Press Ctrl-C to clear the line you are typing.",
        "Ctrl-C",
        actions="""
        clear the line
        clear the input line
        delete the line I am typing
        empty the input
        discard what I am typing
        throw away the text I typed
        remove the line before sending it
        erase the current line
        cancel the line I was writing
        wipe the input field""",
        questions="""
        I do not want to send this line, how do I delete it?
        which key clears the input?
        what empties the line I type?
        I typed nonsense and have not sent it yet
        how do I drop a half typed message?
        what does Ctrl-C do on a line?
        how do I get an empty input line?""",
        heldout="""
        how can I throw away the line I'm currently typing?
        which key empties my input line?
        I want to discard unsent text
        what wipes the current input before I send it?
        how do I erase a half-written line?""",
    ),
)


COMMAND_LINE: tuple[Intent, ...] = (
    _intent(
        "one_shot",
        'Run bitnet-chat "question" to get one answer and return to the shell.',
        'bitnet-chat "question"',
        actions="""
        ask one question from the shell
        ask a single question
        ask a question on the command line
        get one answer without the chat
        ask something without opening the chat
        use it for a single question
        run one prompt and quit
        ask one thing from a script
        get a quick answer in the terminal
        use it non-interactively""",
        questions="""
        can I ask just one question?
        can I use it without the interactive chat?
        is there a one-shot mode?
        how do I pass a question as an argument?
        can I put the question on the command line?
        does it work in a shell script?
        one question only, no chat, how?""",
        heldout="""
        how can I ask a single question straight from my shell?
        I need one answer only, without entering the chat
        can the question be given as a command line argument?
        is it possible to run it non-interactively for one prompt?
        how do I use a one-shot question in a script?""",
    ),
    _intent(
        "no_stream",
        "Use --no-stream to print the reply only when it is complete.",
        "--no-stream",
        actions="""
        turn off streaming
        disable streaming
        print the whole answer at once
        get the answer all at once
        wait for the complete reply
        avoid seeing the words one by one
        show the reply only when it is finished
        stop it from streaming
        switch streaming off
        get the full reply in one piece""",
        questions="""
        can I get the reply in one go?
        is there a flag against streaming?
        I do not want streaming
        the text should appear only at the end
        can it print everything when done?
        how do I see the answer only once it is complete?
        which option disables streamed output?""",
        heldout="""
        how can I have the entire answer printed in one go?
        which flag disables the streaming of tokens?
        I don't want to watch the words appear one after another
        show me the reply only after it is done, how?
        can streaming be switched off?""",
        subjects="--no-stream",
    ),
    _intent(
        "prompt_file",
        "Use -f FILE to read the question from a file.",
        "-f",
        actions="""
        read the question from a file
        read the prompt from a file
        use a text file as the prompt
        load a prompt from a file
        give it a file with my question
        send a whole file as the question
        pass a prompt file
        use a file instead of typing the question
        take the prompt from prompt.txt""",
        questions="""
        can it read a file?
        my question is in a file
        my prompt is stored in a text file, what now?
        which flag reads the prompt from a file?
        can the question come from a file?
        is there an option for prompt files?
        how do I feed a text file to it?""",
        heldout="""
        my prompt sits in a text file, how do I pass it?
        how can I load the question out of a file?
        which option takes a prompt file?
        is it possible to feed it a file as the question?
        I want to use prompt.txt as input for one question""",
        subjects="-f",
    ),
    _intent(
        "batch",
        "Use --input prompts.jsonl --output replies.jsonl to answer many prompts.",
        "--input",
        actions="""
        answer many prompts
        run a batch
        run many questions at once
        process a list of prompts
        process a jsonl file
        answer a whole list of questions
        run a hundred prompts
        do batch processing
        work through many questions
        evaluate a set of prompts
        write all replies to a jsonl file""",
        questions="""
        is there a batch mode?
        can it do batches?
        I have a thousand prompts, what now?
        can I give it many questions in one run?
        how does batch work?
        I have a jsonl with prompts
        where do the batch replies go?
        can it handle a dataset of prompts?""",
        heldout="""
        how can I process hundreds of questions in one run?
        I've got a jsonl full of prompts, how do I run them?
        does it support bulk prompts?
        what options are there for batch jobs?
        how do I run a list of prompts and save the replies?""",
        subjects="--input\n--output",
    ),
    _intent(
        "json",
        "Use --json to get the answer as JSON.",
        "--json",
        actions="""
        get json output
        get the answer as json
        print json
        make the output machine readable
        get structured output
        parse the answer in a script
        have the result in json format
        pipe the answer into jq
        get output for another program""",
        questions="""
        can it print json?
        does it speak json?
        which flag gives json?
        I need the reply as json
        is there a machine readable format?
        is there structured output?
        how do I parse the output?
        can I use jq with it?""",
        heldout="""
        how can I have replies formatted as json?
        I need machine-readable results
        which switch turns on json?
        is the output available in a structured format?
        how do I get something that jq can parse?""",
        subjects="--json",
    ),
    _intent(
        "timeout",
        "Use --timeout SECONDS to limit how long a reply may take.",
        "--timeout",
        actions="""
        set a timeout
        limit the time
        limit how long a reply may take
        set a time limit
        give up after a minute
        stop after 30 seconds
        make it give up when it is too slow
        restrict the waiting time
        limit the seconds per answer
        avoid waiting forever""",
        questions="""
        is there a timeout?
        is there a time limit?
        can it stop by itself after some seconds?
        how long will it wait?
        it takes forever, can I limit that?
        can I set a maximum duration?
        which flag limits the time?
        what if the answer takes too long?""",
        heldout="""
        how can I cap the time an answer takes?
        which option makes it give up after 20 seconds?
        I don't want to wait forever for a reply
        is it possible to specify a time limit?
        how do I set the maximum number of seconds?""",
        subjects="--timeout",
    ),
    _intent(
        "model_flag",
        "Use -m FILE or --model FILE to choose the model.",
        ("-m", "--model"),
        actions="""
        use another model
        use a different model
        choose the model
        load a model
        load my own model
        switch to another model
        change the model
        start with a different gguf
        pick a model file
        run a gguf I downloaded
        point it at my model file
        specify the model""",
        questions="""
        can I use my own gguf?
        which flag sets the model?
        how do I load a gguf file?
        where do I give the model path?
        I downloaded a model, how do I use it?
        can it run other models?
        what is the option for the model file?""",
        heldout="""
        how can I start it with a gguf of my own?
        which option selects the model file?
        I have another model on disk, how do I load it?
        how do I switch models?
        how do I tell it what model to use?""",
        subjects="--model\n-m",
    ),
    _intent(
        "engine_flag",
        "Use --engine PATH to choose the engine binary.",
        "--engine",
        actions="""
        choose the engine
        use another engine
        use my own llama-cli
        use a different llama.cpp binary
        pick the engine binary
        point it at my engine
        set the path of the engine
        run it with my own build of llama.cpp
        switch the engine
        select the engine by path
        use the BitNet build I compiled""",
        questions="""
        which flag sets the engine?
        I compiled llama.cpp myself, how do I use it?
        can I use my own engine?
        where do I give the path of llama-cli?
        how do I tell it which binary to run?
        what is the option for the engine path?""",
        heldout="""
        how can I make it run my own llama-cli binary?
        which option gives the engine's path?
        I built BitNet myself, how do I point to that binary?
        how do I select a different engine on the command line?
        is there a flag to pick the engine executable?""",
        subjects="--engine",
    ),
    _intent(
        "io_pipe",
        "Use --io pipe to talk to the engine over pipes, not a pseudo-terminal.",
        "--io pipe",
        actions="""
        use pipes
        use pipes instead of a terminal
        avoid the pseudo-terminal
        run without a pty
        talk to the engine through pipes
        turn off the pty
        connect the engine with a pipe
        work without a pseudo-terminal
        switch from pty to pipe""",
        questions="""
        can it work without a pty?
        the pty does not work here
        there is no pseudo-terminal on this system
        is there a pipe mode?
        which flag uses pipes?
        pty fails, what else can I do?
        how is the pseudo-terminal turned off?""",
        heldout="""
        how can I run the engine over plain pipes?
        my system has no pty, what can I do?
        which option replaces the pseudo-terminal by a pipe?
        is it possible to avoid ptys?
        I want pipe communication with the engine""",
        subjects="--io\n--io pipe",
    ),
    _intent(
        "typing_speed",
        "Use --typing-speed CPS to show replies at that many characters per second.",
        "--typing-speed",
        actions="""
        slow down the output
        make the text appear slower
        set the typing speed
        show the reply like a typewriter
        change how fast the letters appear
        print at 40 characters per second
        simulate typing
        have a typewriter effect
        make the text scroll slowly
        control the characters per second""",
        questions="""
        the text appears too fast
        the output is too quick to read
        is there a typewriter effect?
        can it type slower?
        can I change the typing speed?
        which flag slows the output?
        can the letters appear one by one, slowly?""",
        heldout="""
        how can I get a typewriter look?
        replies show up too quickly, can I slow the display?
        which option sets characters per second?
        I want the letters to appear slowly
        how do I adjust the typing speed?""",
        subjects="--typing-speed",
    ),
    _intent(
        "chat_template",
        "Use --chat-template to choose the prompt format of the model.",
        "--chat-template",
        actions="""
        change the chat template
        set the chat template
        use another prompt format
        use chatml
        override the template of the model
        choose the prompt format
        use the llama3 template
        fix a wrong chat template
        pick a different template""",
        questions="""
        which template is used?
        can I use a different template?
        the prompt format is wrong, how do I change it?
        which flag sets the template?
        my model has no template, what now?
        how do I select chatml?
        what is the option for the prompt format?""",
        heldout="""
        how can I override the model's template?
        my gguf carries no chat template, what can I do?
        which option decides on the prompt format?
        I'd like to force the chatml format
        how do I specify a template for the chat?""",
        subjects="--chat-template",
    ),
    _intent(
        "system_flag",
        "Use --system TEXT on the command line to start with a system message.",
        "--system",
        actions="""
        start with a system message
        give a system prompt on the command line
        pass a system prompt when starting
        set the system message at start
        launch it with a system prompt
        give the system prompt as a flag
        start the program with instructions
        set the system prompt from the shell""",
        questions="""
        which flag sets the system message?
        is there a command line option for the system prompt?
        what is the flag for the system prompt?
        can I give a system prompt at startup?
        how do I launch the program with a role?
        which option passes the system prompt?""",
        heldout="""
        what flag supplies a system prompt at launch?
        how can I start the program with a system message already set?
        is there an option on the command line for the system prompt?
        I want to pass the system prompt as a flag
        how do I hand over a system message from the shell?""",
        subjects="--system",
    ),
    _intent(
        "max_tokens",
        "Use --max-tokens N to limit the length of a reply.",
        "--max-tokens",
        actions="""
        limit the length of a reply
        limit the number of tokens
        get shorter answers
        make the answers shorter
        set the maximum length
        cap the reply length
        allow longer replies
        set how many tokens a reply may have
        stop after 100 tokens
        restrict the size of the answer""",
        questions="""
        how long can a reply be?
        can replies be shorter?
        replies are too long, is there a limit?
        which flag limits the tokens?
        is there a token limit per reply?
        what is the maximum number of tokens?
        can I set the length of the answer?""",
        heldout="""
        how can I restrict replies to 200 tokens?
        which option caps the answer's length?
        your answers are too lengthy, can I limit the size?
        I want replies of at most 50 tokens
        how do I set the max number of tokens per answer?""",
        subjects="--max-tokens",
    ),
    _intent(
        "temperature",
        "Use --temperature T (or --temp T) to make replies more or less random.",
        ("--temperature", "--temp"),
        actions="""
        set the temperature
        change the temperature
        make the answers less random
        make the replies more creative
        get more variety
        reduce the randomness
        increase the randomness
        make you more creative
        use temperature zero
        raise the temperature
        get boring but safe answers
        sample greedily""",
        questions="""
        how random are the replies?
        can you be more creative?
        which flag controls randomness?
        what is the option for the temperature?
        is there a temperature setting?
        can I lower the temperature?
        the replies are too wild""",
        heldout="""
        how can I turn down the randomness of replies?
        which option makes the output more creative?
        I'd like to use a temperature of 0.2
        is it possible to adjust the sampling temperature?
        what flag affects how random the answers are?""",
        subjects="--temperature\n--temp",
    ),
    _intent(
        "ctx",
        "Use --ctx N or -c N to set the size of the context.",
        ("--ctx", "-c"),
        actions="""
        set the context size
        make the context larger
        increase the context
        change the context length
        get a bigger context
        use a context of 4096 tokens
        reduce the context to save memory
        set the context window
        make you remember longer conversations
        enlarge the context window""",
        questions="""
        how big is the context?
        what is the context size?
        can the context be bigger?
        which flag sets the context?
        the context is too small
        is there an option for the context length?
        what sets the context window?""",
        heldout="""
        how can I enlarge the context window?
        which option determines the context length?
        I need a context of 8192 tokens
        the conversation no longer fits, can I have a bigger context?
        how do I configure the size of the context?""",
        subjects="--ctx\n-c",
    ),
    _intent(
        "threads",
        "Use --threads N or -t N to set the number of CPU threads.",
        ("--threads", "-t"),
        actions="""
        set the number of threads
        use more threads
        use more CPU cores
        use all my cores
        use fewer threads
        limit the CPU use
        run on four cores
        change the thread count
        make it use only two cores
        choose how many cores it uses""",
        questions="""
        how many threads does it use?
        how many cores are used?
        which flag sets the threads?
        can it use all cores?
        it uses too much CPU
        is it multi-threaded?
        what is the option for CPU threads?""",
        heldout="""
        how can I let it run on all eight cores?
        which option sets how many CPU threads are used?
        my processor is too busy, can it use fewer cores?
        I want it to take just one thread
        how do I configure the thread count?""",
        subjects="--threads\n-t",
    ),
    _intent(
        "seed",
        "Use --seed N to get the same reply every time.",
        "--seed",
        actions="""
        set the seed
        set a random seed
        get the same answer every time
        make the results reproducible
        get repeatable replies
        fix the random seed
        reproduce an answer
        make runs deterministic""",
        questions="""
        are the replies reproducible?
        which flag sets the seed?
        can I get identical answers each time?
        why is the answer different every time?
        is there a seed option?
        I need deterministic output
        can a run be repeated exactly?""",
        heldout="""
        how can I reproduce the exact same reply?
        which option fixes the random number generator?
        I'd like deterministic answers on each run
        is it possible to choose the seed?
        how do I make my results repeatable?""",
        subjects="--seed",
    ),
    _intent(
        "extra_flags",
        "Put extra engine flags after -- at the end of the command line.",
        "after --",
        actions="""
        pass extra flags to the engine
        give more options to llama-cli
        use an engine flag that bitnet-chat does not know
        hand other arguments to the engine
        forward options to the engine
        set special engine options
        pass arguments through to llama.cpp
        add my own engine flags""",
        questions="""
        can I pass other flags to the engine?
        what does -- do?
        where do the engine flags go?
        can I use any llama-cli flag?
        what comes after the double dash?
        what is the double dash for?
        the engine has an option you do not have""",
        heldout="""
        how can I hand additional arguments to llama-cli?
        where do I write flags meant for the engine itself?
        is it possible to forward options through to the engine?
        what's the double dash good for?
        I need an engine option that you don't offer""",
    ),
    _intent(
        "engine_list",
        "Run bitnet-chat engine list to see the engines it found.",
        "engine list",
        actions="""
        see which engines are installed
        list the engines
        find out which engines were found
        show all engines
        see the available engines
        get a list of engines
        check what engines I have
        see the engines on this machine""",
        questions="""
        which engines do I have?
        what engines are available?
        what engines did you find?
        are there any engines here?
        which engines are installed on my computer?
        where does it look for engines?
        which command lists engines?""",
        heldout="""
        how can I view the installed engines?
        I'd like an overview of the engines on my computer
        what shows every engine that was detected?
        which engines does it know about?
        how do I enumerate the engines?""",
        subjects="bitnet-chat engine list\nengine list",
    ),
    _intent(
        "engine_probe",
        "Run bitnet-chat engine probe PATH to test an engine.",
        "engine probe",
        actions="""
        test an engine
        check an engine
        probe a binary
        see whether an engine works
        check if my llama-cli is supported
        find out what an engine can do
        examine an engine binary
        inspect my engine
        verify that a binary is a usable engine
        diagnose an engine""",
        questions="""
        does my engine work?
        is my llama-cli supported?
        is this binary any good as an engine?
        how do I know if the engine works?
        which command tests an engine?
        can you check my engine?
        is my build of llama.cpp compatible?""",
        heldout="""
        how can I verify that my engine is compatible?
        I compiled a binary, will it work? how do I test it?
        what examines an engine and tells me what it supports?
        is there a command to check an engine binary?
        how do I find out whether this llama-cli is usable?""",
        subjects="bitnet-chat engine probe\nengine probe",
    ),
    _intent(
        "engine_install",
        "Run bitnet-chat engine install to get an engine.",
        "engine install",
        actions="""
        install an engine
        get an engine
        set up an engine
        build an engine
        download an engine
        install llama.cpp
        obtain llama-cli
        add an engine to this machine
        get BitNet running on my computer""",
        questions="""
        I have no engine, what now?
        where do I get an engine?
        how is an engine installed?
        can you install the engine for me?
        it says that there is no engine
        which command installs an engine?
        I need an engine
        do I have to compile llama.cpp?""",
        heldout="""
        how can I obtain an engine for this computer?
        there's no llama-cli here, how do I set one up?
        what installs the engine automatically?
        I don't have any engine yet
        is there a command that sets up llama.cpp for me?""",
        subjects="bitnet-chat engine install\nengine install",
    ),
    _intent(
        "version",
        "Run bitnet-chat --version to see the version.",
        "--version",
        actions="""
        see the version
        find out the version
        check which version I have
        print the version number
        know how new my bitnet-chat is
        show the version of bitnet-chat""",
        questions="""
        what version is this?
        which version do I have?
        what is the version number?
        which release is installed?
        is this the latest version?
        version?
        which flag prints the version?""",
        heldout="""
        how can I tell which release of bitnet-chat I'm running?
        where is the version number shown?
        I want to know what version is installed
        what option displays the version?
        how do I look up my version?""",
        subjects="--version",
    ),
    _intent(
        "usage",
        "Run bitnet-chat --help to see all command line options.",
        "--help",
        actions="""
        see all command line options
        see all flags
        list the options of bitnet-chat
        get the usage text
        find out which flags exist
        see the command line help
        look up the command line arguments
        read about all the switches""",
        questions="""
        what flags are there?
        which options does bitnet-chat have?
        what command line options exist?
        where are the flags explained?
        what arguments does it take?
        which switches are there?
        what is the usage?""",
        heldout="""
        how can I list every command line flag?
        where are the command line options documented?
        I'd like to read the usage of bitnet-chat
        what arguments does the program accept?
        show me which flags are supported, how?""",
        subjects="--help",
    ),
    _intent(
        "config",
        "Put your settings in config.toml, and bitnet-chat reads them at start.",
        "config.toml",
        actions="""
        save my settings
        keep my settings
        configure bitnet-chat
        set defaults
        change the default settings
        store my preferences
        avoid typing the same flags every time
        make an option permanent
        set up a configuration file
        set a default model""",
        questions="""
        where is the configuration?
        is there a config file?
        where are the settings stored?
        can I set defaults?
        which file holds the settings?
        what is config.toml?
        what goes in config.toml?
        can it remember my options?
        where do my preferences go?""",
        heldout="""
        how can I make my preferred options permanent?
        does it have a configuration file?
        I always use the same flags, can they be saved?
        in which file do I keep default settings?
        where would I configure the defaults?""",
        subjects="config.toml",
    ),
    _intent(
        "engine_variable",
        "Set the environment variable $BITNET_CHAT_ENGINE to the path of your engine.",
        "BITNET_CHAT_ENGINE",
        actions="""
        set the engine in the environment
        use an environment variable for the engine
        choose the engine with a variable
        set the engine in my bashrc
        export the engine path
        define the engine for every shell
        set the engine path with a shell variable""",
        questions="""
        is there an environment variable?
        which environment variable sets the engine?
        which variable holds the engine path?
        what environment variables does it read?
        can the engine come from the environment?
        what do I put in my bashrc for the engine?
        what is the name of the variable?""",
        heldout="""
        what's the environment variable for the engine called?
        how can I define the engine in my shell profile?
        does bitnet-chat look at any environment variable?
        I want to export the engine's location in my bashrc
        which env var points to the engine?""",
        subjects="$BITNET_CHAT_ENGINE\nBITNET_CHAT_ENGINE",
    ),
    _intent(
        "real_model",
        "I am only a demo. For a real model get microsoft/bitnet-b1.58-2B-4T-gguf, "
        "or any GGUF, and start with -m FILE.",
        "microsoft/bitnet-b1.58-2B-4T-gguf",
        actions="""
        get a real model
        get a better model
        get a smarter model
        download a real model
        get the real BitNet model
        find a bigger model
        upgrade to a proper model
        replace you with a good model""",
        questions="""
        where do I get a real model?
        which model should I download?
        where can I download a model?
        you are not very smart, is there a better model?
        what is a good model?
        can you recommend a model?
        where are real models?
        which real model do you suggest?
        where is the model from Microsoft?""",
        heldout="""
        how can I obtain a more capable model?
        where would I find a proper BitNet model?
        which model do you recommend downloading?
        I need something smarter than you
        is a larger model available for download?""",
    ),
)


def _exit_code(code: int, meaning: str, name: str, causes: str, heldout: str, further: str) -> Intent:
    """Exit codes are asked in two directions: the number's meaning, and the number for an event."""
    return _intent(
        f"exit_{name}",
        f"Exit code {code} means {meaning}.",
        f"Exit code {code} ",
        questions="\n".join(
            [
                f"what does exit code {code} mean?",
                f"what is exit code {code}?",
                f"it ended with exit code {code}",
                f"I got exit status {code}",
                f"exit code {code}?",
                f"why did it exit with {code}?",
                f"the exit code was {code}, why?",
                f"bitnet-chat returned {code}",
                f"what does the return code {code} stand for?",
                f"what does status {code} tell me?",
                f"the shell says {code}, what is that?",
            ]
            + [
                template.format(cause=cause)
                for cause in _lines(causes)
                for template in (
                    "which exit code means {cause}?",
                    "what is the exit code for {cause}?",
                    "what exit code do I get for {cause}?",
                    "which return code stands for {cause}?",
                    "what exit status is used for {cause}?",
                    "exit code for {cause}?",
                )
            ]
        )
        + "\n"
        + further,
        heldout=heldout,
        weight=0.9,
    )


EXIT_CODES: tuple[Intent, ...] = (
    _exit_code(
        0,
        "that all went well",
        "ok",
        "success\nno error\na good run\nall is well\na normal end\nwhen it worked",
        """
        my script saw exit code 0, is that good?
        which exit code signals success?
        please explain exit status 0
        what number is returned if everything went fine?""",
        "what does it return when everything is fine?\nwhich number means that it worked?",
    ),
    _exit_code(
        2,
        "a usage error: a wrong flag or argument",
        "usage",
        "a usage error\na wrong flag\na bad argument\nan unknown option\na mistyped option\nwrong usage",
        """
        my script saw exit code 2, what happened?
        which exit code signals an invalid option?
        please explain exit status 2
        what's returned if I mistype a flag?""",
        "what does it return for a wrong option?\nwhich number means a usage error?",
    ),
    _exit_code(
        3,
        "that no engine was found",
        "no_engine",
        "no engine\na missing engine\nwhen no engine is found\nan engine that is not there\nno llama-cli",
        """
        my script saw exit code 3, what happened?
        which exit code signals that the engine is missing?
        please explain exit status 3
        the program quit with code 3, what's wrong?""",
        "what does it return without an engine?\nwhich number means that there is no engine?",
    ),
    _exit_code(
        4,
        "that there is no model, or a bad one",
        "bad_model",
        "a bad model\na missing model\nno model\na broken model file\na model that does not load\na corrupt gguf",
        """
        my script saw exit code 4, what happened?
        which exit code signals a broken model?
        please explain exit status 4
        the program quit with code 4, what's wrong?""",
        "what does it return for a bad model?\nwhich number means that the model is missing?",
    ),
    _exit_code(
        5,
        "that the engine died",
        "engine_died",
        "a dead engine\nwhen the engine dies\na crash of the engine\nan engine that crashed\nan engine crash",
        """
        my script saw exit code 5, what happened?
        which exit code signals that the engine crashed?
        please explain exit status 5
        the program quit with code 5, what's wrong?""",
        "what does it return when the engine dies?\nwhich number means that the engine crashed?",
    ),
    _exit_code(
        6,
        "that the context overflowed",
        "overflow",
        "a context overflow\na full context\nwhen the context is full\ntoo much text for the context\n"
        "a prompt that is too long",
        """
        my script saw exit code 6, what happened?
        which exit code signals a context overflow?
        please explain exit status 6
        the program quit with code 6, what's wrong?""",
        "what does it return when the context overflows?\nwhich number means a full context?",
    ),
    _exit_code(
        124,
        "a timeout",
        "timeout",
        "a timeout\nwhen the time is up\na reply that took too long\nwhen the time limit is reached\ntoo slow a reply",
        """
        my script saw exit code 124, what happened?
        which exit code signals a timeout?
        please explain exit status 124
        the program quit with code 124, what's wrong?""",
        "what does it return after a timeout?\nwhich number means that time ran out?",
    ),
    _exit_code(
        130,
        "that you interrupted it",
        "interrupted",
        "an interrupt\nwhen I interrupt it\na run stopped with Ctrl-C\nwhen I press Ctrl-C\nan interrupted run",
        """
        my script saw exit code 130, what happened?
        which exit code signals an interruption?
        please explain exit status 130
        the program quit with code 130, what's wrong?""",
        "what does it return when I interrupt it?\nwhich number means interrupted?",
    ),
)

STORY = """Once upon a time there was a small model that lived in a very small file. It knew only three numbers: \
minus one, zero and one. The other models laughed at it, because they had millions of numbers, and each number had \
many digits.

One morning a letter arrived. A little computer in a far village had lost its voice, and nobody could help. The big \
models wanted to go, but they were too heavy for the narrow road. The bridge groaned, the wheels broke, and one after \
another they turned back.

So the small model packed its bag. Into the bag went a minus one, a zero and a one, and a piece of bread for the way. \
It walked across the bridge, and the bridge did not even notice. It walked through the forest, where an old owl asked: \
"What do you want with so few numbers?" The small model answered: "With one I say yes, with minus one I say no, and \
with zero I listen." The owl thought about this for a long time, and then it showed the way.

In the evening the model came to the village. The little computer sat in a dark room, and dust lay on its keys. The \
small model climbed in, and there was room enough, for it needed hardly any. It said one word, and then another. The \
lamp began to glow. "Hello," said the little computer, and all the people in the street stopped to hear it.

They talked the whole night, about commands and keys, about the sea and the stars. When the sun came up, the small \
model wanted to go home. "Stay," said the little computer. "You are the only one who fits." And so it stayed, and \
answered every question as well as it could. And when it did not know an answer, it said so, and nobody minded.

That is the end of the story."""

COUNT = ", ".join(str(number) for number in range(1, 101)) + "."

PYTHON_CODE = """Here is a small Python program:

```python
def greet(name):
    print(f"Hello, {name}!")


greet("world")
```

Save it as `hello.py` and run `python3 hello.py`."""

MARKDOWN_TABLE = """Here is a table:

| Command | What it does |
|---------|--------------|
| /clear | forgets the conversation |
| /regen | answers again |
| /undo | takes back the last message |"""

MARKDOWN_LIST = """# A list

- **first**: one
- *second*: two
- `third`: three"""

SMALL_TALK: tuple[Intent, ...] = (
    _intent(
        "greeting",
        ("Hello! Ask me how to use bitnet-chat.",),
        ("Hello", "hello"),
        questions="""
        hi
        hello
        hey
        hello there
        hi there
        good morning
        good evening
        good afternoon
        hey there
        greetings
        hi bot
        hello bitnet
        yo
        hey you
        howdy
        hello computer""",
        heldout="""
        hello my friend
        hey, good day
        well hello there
        hi, nice to see you""",
        small_talk=True,
        weight=1.5,
    ),
    _intent(
        "how_are_you",
        ("I am fine, thank you! How can I help?",),
        "fine",
        questions="""
        how are you?
        how are you doing?
        how do you do?
        how is it going?
        how are you today?
        are you well?
        how do you feel?
        are you okay?
        what's up?
        everything okay with you?
        how have you been?""",
        heldout="""
        so how are you feeling today?
        hope you are doing well?
        how's it going with you?""",
        small_talk=True,
    ),
    _intent(
        "thanks",
        ("You are welcome!",),
        "welcome",
        questions="""
        thanks
        thank you
        thank you very much
        thanks a lot
        thx
        many thanks
        thank you for your help
        great, thanks
        cool, thank you
        that helped, thanks
        perfect, thanks
        ok thanks
        thanks for the answer""",
        heldout="""
        thanks so much for the help
        ah great, thank you
        I thank you""",
        small_talk=True,
    ),
    _intent(
        "bye",
        ("Goodbye! Type /exit to leave.",),
        ("Goodbye", "/exit"),
        questions="""
        bye
        goodbye
        bye bye
        see you
        see you later
        good night
        farewell
        until tomorrow
        take care
        I have to go
        see you soon
        cu""",
        heldout="""
        ok bye then
        well, goodbye and see you soon
        I have to go now, bye""",
        small_talk=True,
    ),
    _intent(
        "who",
        "I am bitnet-demo, a tiny ternary model that comes with bitnet-chat.",
        "bitnet-demo",
        questions="""
        who are you?
        what are you?
        what is your name?
        introduce yourself
        tell me about yourself
        are you a robot?
        are you human?
        are you an AI?
        are you ChatGPT?
        who am I talking to?
        do you have a name?
        what kind of model are you?
        who made you?
        how should I call you?
        are you a real person?
        what sort of thing are you?""",
        heldout="""
        please introduce yourself to me
        who or what are you?
        may I ask your name?
        am I talking to a human or a machine?""",
        small_talk=True,
    ),
    _intent(
        "abilities",
        "I answer questions about bitnet-chat: its commands, keys and flags. I know little else.",
        "commands, keys and flags",
        questions="""
        what can you do?
        what do you know?
        what can I ask you?
        what are you good at?
        what are your abilities?
        how can you help me?
        what topics do you know?
        what are you for?
        what is your purpose?
        what should I ask you?
        what are your limits?
        can you do anything useful?
        what kind of questions can you answer?""",
        heldout="""
        what sort of questions can I ask you?
        tell me what you are able to do
        which topics do you know about?""",
        small_talk=True,
    ),
    _intent(
        "size",
        "I am tiny: a file of less than 4 MB.",
        "4 MB",
        questions="""
        how big are you?
        how large are you?
        how small are you?
        what is your size?
        how many parameters do you have?
        how many megabytes are you?
        are you a large model?
        how big is your file?
        are you a big model?""",
        heldout="""
        what size are you, in megabytes?
        would you say you are a large model?
        how large is your model file?""",
        small_talk=True,
    ),
    _intent(
        "bitnet",
        "BitNet b1.58 is a model whose weights are only -1, 0 and 1, so it is small and fast on a CPU.",
        "-1, 0 and 1",
        questions="""
        what is BitNet?
        what does BitNet mean?
        explain BitNet
        what is a ternary model?
        what are ternary weights?
        what does b1.58 mean?
        why is it called b1.58?
        what is a 1-bit model?
        tell me about BitNet
        how does BitNet work?
        what is special about BitNet?
        what is BitNet b1.58?""",
        heldout="""
        can you explain what ternary weights are?
        what makes a BitNet model special?
        I have never heard of BitNet, what is it?""",
        small_talk=True,
    ),
    _intent(
        "product",
        "bitnet-chat is a terminal chat and a batch tool for BitNet models. The model stays loaded between questions.",
        "terminal chat",
        questions="""
        what is bitnet-chat?
        what does bitnet-chat do?
        explain bitnet-chat
        what is this program?
        what is this?
        what is this tool for?
        tell me about bitnet-chat
        what program am I using?
        describe bitnet-chat
        why should I use bitnet-chat?""",
        heldout="""
        what kind of program is bitnet-chat?
        could you describe this tool?
        what is the purpose of this program?""",
        small_talk=True,
    ),
    _intent(
        "joke",
        "Why do ternary models never argue? They only know no, maybe and yes. 😄",
        "ternary",
        questions="""
        tell me a joke
        do you know a joke?
        make me laugh
        say something funny
        a joke please
        joke
        can you tell jokes?
        I want to hear a joke
        be funny
        another joke""",
        heldout="""
        would you tell me a good joke?
        say a joke
        I'd love to laugh, do you know something funny?""",
        small_talk=True,
    ),
    _intent(
        "emoji",
        "Here you are: 😀 🎉 🚀 🐱 🌈 👍",
        "🎉",
        questions="""
        show me some emoji
        send an emoji
        do you know emoji?
        can you write emojis?
        use emoji
        give me a smiley
        print some emojis
        reply with emoji
        can you do smileys?
        emoji please
        😀
        🎉
        👍""",
        heldout="""
        could you send me a few emojis?
        write some smileys
        I like emoji, show me some""",
        small_talk=True,
    ),
    _intent(
        "mood",
        "That is good to hear! 😊",
        "good to hear",
        questions="""
        I am fine
        I am happy
        I feel great
        I am good
        I'm doing well
        all is well
        life is good
        today is a good day
        you are great
        you are nice
        I like you
        well done
        good job
        good bot
        nice
        great
        that works
        perfect
        cool
        awesome
        I love this""",
        heldout="""
        I feel really good today
        you did a great job
        that's nice""",
        small_talk=True,
    ),
    _intent(
        "sad",
        "I am sorry. I hope that it gets better soon. 🌻",
        "sorry",
        questions="""
        I am sad
        I feel bad
        I am tired
        this is a bad day
        I am unhappy
        I am angry
        you are stupid
        you are bad
        that is wrong
        that was not helpful
        I am bored
        I am not happy
        this does not work
        I hate this
        my day was terrible""",
        heldout="""
        I'm feeling sad today
        today was a terrible day
        I am so tired and angry""",
        small_talk=True,
    ),
    _intent(
        "chinese",
        "你好！很高兴认识你。",
        "你好",
        questions="""
        你好
        您好
        你好吗
        你好！
        嗨
        早上好
        你会说中文吗？
        你是谁？
        say hello in Chinese
        can you speak Chinese?
        do you know Chinese?
        greet me in Chinese
        how do you say hello in Chinese?
        write something in Chinese""",
        heldout="""
        你好，机器人
        please say hello in Chinese
        do you speak any Chinese?""",
        small_talk=True,
    ),
    _intent(
        "japanese",
        "こんにちは！お元気ですか。",
        "こんにちは",
        questions="""
        こんにちは
        こんばんは
        おはよう
        おはようございます
        はじめまして
        日本語を話せますか？
        あなたは誰ですか？
        say hello in Japanese
        can you speak Japanese?
        do you know Japanese?
        greet me in Japanese
        how do you say hello in Japanese?
        write something in Japanese""",
        heldout="""
        こんにちは！元気？
        please say hello in Japanese
        do you speak any Japanese?""",
        small_talk=True,
    ),
    _intent(
        "korean",
        "안녕하세요! 만나서 반갑습니다.",
        "안녕하세요",
        questions="""
        안녕하세요
        안녕
        안녕하십니까
        반갑습니다
        한국어 할 수 있어요?
        누구세요?
        say hello in Korean
        can you speak Korean?
        do you know Korean?
        greet me in Korean
        how do you say hello in Korean?
        write something in Korean""",
        heldout="""
        안녕하세요, 친구
        please say hello in Korean
        do you speak any Korean?""",
        small_talk=True,
    ),
    _intent(
        "chinese_help",
        "输入 /help 可以查看所有命令。",
        "/help",
        questions="""
        怎么用？
        有什么命令？
        帮助
        怎么使用这个程序？
        有哪些命令？
        我需要帮助""",
        heldout="""
        这个程序怎么用？
        请问有哪些命令？""",
        small_talk=True,
        weight=0.6,
    ),
    _intent(
        "chinese_exit",
        "输入 /exit 退出。再见！👋",
        "/exit",
        questions="""
        怎么退出？
        再见
        如何退出？
        我想退出
        退出
        拜拜""",
        heldout="""
        请问怎么退出？
        我想退出程序""",
        small_talk=True,
        weight=0.6,
    ),
    _intent(
        "japanese_exit",
        "/exit と入力すると終了します。さようなら！👋",
        "/exit",
        questions="""
        終了するには？
        終了
        さようなら
        どうやって終了しますか？
        終わりたい
        またね""",
        heldout="""
        終了したいです
        終了する方法は？""",
        small_talk=True,
        weight=0.6,
    ),
    _intent(
        "story",
        STORY,
        "Once upon a time",
        questions="""
        tell me a story
        tell me a long story
        write a story
        can you tell a story?
        I want to hear a story
        a story please
        tell me a fairy tale
        write a long text
        read me a bedtime story
        once upon a time
        write something long
        tell a tale""",
        heldout="""
        would you tell me a nice long story?
        I'd love to hear a tale
        please write a very long story for me""",
        small_talk=True,
        weight=1.2,
    ),
    _intent(
        "count",
        COUNT,
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
        questions="""
        count to 100
        count to one hundred
        can you count to 100?
        count from 1 to 100
        list the numbers from 1 to 100
        print the numbers up to 100
        count for me
        can you count?
        count up to a hundred
        write all numbers from one to hundred""",
        heldout="""
        please count up to one hundred
        could you count from 1 to 100 for me?
        show me the numbers 1 to 100""",
        small_talk=True,
        weight=0.5,
    ),
    _intent(
        "python",
        PYTHON_CODE,
        "```python",
        questions="""
        write a Python program
        show me some code
        show me Python code
        write hello world in Python
        can you write code?
        give me an example in Python
        write a function
        code example please
        show me a code block
        write a small script
        can you program?
        hello world in Python""",
        heldout="""
        could you write me a little Python script?
        show an example of Python code
        I need a hello world program""",
        small_talk=True,
        weight=0.7,
    ),
    _intent(
        "table",
        MARKDOWN_TABLE,
        "| /clear |",
        questions="""
        show me a table
        make a table
        write a Markdown table
        can you draw a table?
        give me a table of commands
        print a table
        table please""",
        heldout="""
        could you make me a Markdown table?
        draw a small table""",
        small_talk=True,
        weight=0.6,
    ),
    _intent(
        "markdown",
        MARKDOWN_LIST,
        "**first**",
        questions="""
        show me Markdown
        write some Markdown
        can you write Markdown?
        show me a list
        make a bullet list
        give me a list in Markdown
        print a heading and a list""",
        heldout="""
        could you write a bullet list?
        please show some Markdown""",
        small_talk=True,
        weight=0.6,
    ),
    _intent(
        "unknown",
        "I do not know that. I am a tiny demo and only know bitnet-chat. Type /help for its commands.",
        "do not know",
        questions="""
        what is the capital of France?
        what is the capital of {thing}?
        how is the weather today?
        will it rain tomorrow?
        who won the football game?
        how do I cook {thing}?
        how do I make {thing}?
        what is {thing}?
        who is {thing}?
        what do you think about {thing}?
        tell me about {thing}
        do you like {thing}?
        where can I buy {thing}?
        explain {thing} to me
        write an essay about {thing}
        write a poem about {thing}
        how old is {thing}?
        how far is {thing}?
        how tall is {thing}?
        translate {thing} into French
        what is two plus two?
        what is 12 times 7?
        solve this equation
        what is the meaning of life?
        what time is it?
        what day is today?
        who is the president?
        who wrote {thing}?
        when was {thing} invented?
        why is the sky blue?
        summarize this article about {thing}
        recommend a book about {thing}
        what is the best {thing}?
        how does {thing} work?
        why do people like {thing}?
        is {thing} good for me?""",
        heldout="""
        what's the biggest city in Germany?
        could you explain photosynthesis?
        when did the second world war end?
        how many legs does a spider have?""",
        small_talk=True,
        weight=3.0,
    ),
)

INTENTS: tuple[Intent, ...] = COMMANDS + COMMAND_LINE + EXIT_CODES + SMALL_TALK
