"""Further training questions by intent: other grammar and other words for what ``intents.py`` asks already.

They were written after the first training run, because a model that had only seen "how do I ..." was lost as soon as
a question was built in another way.
"""

from __future__ import annotations

FURTHER_QUESTIONS: dict[str, str] = {
    "help": """
        list everything I can do here
        I need a summary of the commands
        which slash commands do you understand?
        show me the ropes
        got a cheat sheet?
        what shortcuts do you have?
        where are the commands documented?
        I am new here, what can I type?
        all commands please
        instructions please
        I can't remember the commands
        any documentation about the keys?
        print the command reference
        is there an overview page?
        what possibilities do I have in this chat?""",
    "exit": """
        how can I close the application?
        I am finished for now, get me out
        let me out
        how do I get back to bash?
        take me back to the terminal
        that's all, how do I close this?
        what command quits?
        what is the quit command?
        how does one end this?
        how do I kill this program properly?
        enough for today, how do I stop the program?
        which command closes the chat?
        is there a command for quitting?""",
    "clear": """
        can we begin a new chat?
        I want to talk about something else, forget the old stuff
        how can this talk be deleted?
        please forget all that we discussed
        erase your memory
        clean up the conversation
        how do I clear your memory?
        what deletes the conversation so far?
        let's begin anew
        let us talk about something new, forget the rest
        reset yourself
        is there a reset command?
        how do I get rid of the whole conversation?
        which command makes you forget what was said before?
        forget all earlier messages""",
    "regen": """
        please answer once more
        can you rewrite your answer?
        could you redo that?
        I want another response
        that response was useless, do it over
        do that again
        how can the response be regenerated?
        which command regenerates the reply?
        your reply was not good, again please
        can I make you retry?
        what do I type for a new attempt?
        how do I ask for an alternative?
        give that another go
        let me see a different version of your response
        I am not happy with your last reply, produce another one""",
    "undo": """
        pretend that I never sent my last message
        I want to take that back
        that was the wrong question, remove it
        my last message had an error, how do I remove it?
        can a message be taken back after sending?
        how do I un-send it?
        how can I correct the message I just sent?
        forget the last question only
        which command takes a message back?
        what undoes the last exchange?
        I pressed Enter too soon, can I revert it?
        can I go back one turn?
        remove just the latest message please
        I regret my last message""",
    "system": """
        I want you to be a poet
        how do I make you answer like a pirate?
        from now on behave like a teacher, how do I say that?
        how can I define your behaviour in the chat?
        can the system prompt be changed while chatting?
        which command sets the system message?
        what changes your role?
        how can I edit the system message right here?
        is there a slash command for the system prompt?
        in this chat, how do I set the system prompt?
        how can I alter the way you act?
        I want to give new instructions in the middle of the chat
        could you have another personality?""",
    "stats": """
        how many tokens did that take?
        what is your tokens per second rate?
        how quick are you?
        are you fast?
        is the context nearly full?
        what percentage of the context is used?
        tell me the token count
        what was the speed of that answer?
        numbers please: tokens, speed
        where do I find token statistics?
        which command shows the speed?
        how much of the context have we filled?
        is there any information about performance?
        how many words per second can you write?""",
    "model_command": """
        tell me which model runs
        which model do I have open?
        show the active model
        which command tells me the model?
        what is the file name of the model that runs now?
        which model answers me?
        is there a command that shows the model?
        what are you running on, which model?
        display the model that is loaded""",
    "send": """
        how does sending work?
        which button submits?
        my question is typed, how do I submit it?
        how do I get the text to you?
        what do I hit when my message is ready?
        does Return send the message?
        what happens if I hit Enter?
        what does pressing Enter do?
        my message is ready, what next?
        with which key do I send?""",
    "newline": """
        Enter submits too early, how do I just go to the next line?
        I want to write three lines
        my message needs more than one line
        how can I have two lines in a message?
        is a multi-line input possible?
        without sending, how do I start another line?
        what inserts a newline?
        what can I press for the next line?
        how are line breaks typed?
        I need a second paragraph
        how do I paste or write several lines?
        Enter sends, but how do I break the line?
        what does Alt-Enter do?""",
    "search_history": """
        I want to see a question from earlier again
        where did my old questions go?
        how can I find what I wrote an hour ago?
        how do I search backwards?
        is it possible to search the messages I typed?
        which shortcut looks through my old messages?
        find one of my former inputs
        how can I search for a past question?
        how do I bring back something I typed last week?
        like in bash, can I search the history?
        which key finds earlier inputs?""",
    "editor": """
        can I write the prompt with vim?
        I prefer nano for writing
        vim please
        how do I compose a message in emacs?
        how do I start my text editor from here?
        open vim for my message
        which keys start the editor?
        I want to edit my message outside of the chat
        how is $EDITOR used?
        typing here is awkward, can I use my editor?
        which key combination launches an external editor?
        can the prompt be edited in a proper editor?
        what opens $EDITOR?""",
    "complete": """
        can you complete /re for me?
        how does completion of commands work?
        do commands complete?
        which key expands a command?
        I typed half a command, can it be completed?
        is there a completion key?
        what does pressing Tab do?
        must I type commands in full?""",
    "stop_reply": """
        stop!
        be quiet
        enough, stop writing
        how can I cancel while you are answering?
        while you write, how do I interrupt?
        your answer goes on forever, how can it be stopped?
        how do I cancel a running reply?
        how do I abort this?
        can the generation be stopped?
        what halts a reply that is running?
        is there a way of cutting off your output?
        I have read enough, how do I stop the rest?
        which keys stop the generation?
        I want to end the reply before it is complete""",
    "clear_line": """
        how can the input line be cleared?
        I changed my mind about what I typed, delete it
        not sent yet, how do I throw it away?
        how do I empty the line without sending?
        how do I cancel what I am typing now?
        I typed garbage in the input, how do I get rid of it?
        which key deletes everything on the input line?
        what clears the line?
        remove the text in the prompt line
        my half finished line should go away
        discard this input before sending it""",
    "one_shot": """
        without starting a chat, how do I ask something?
        I only want one answer in my shell
        can I call it from a script with one question?
        just one prompt from bash, how?
        how can I give a question as an argument?
        is a non-interactive call possible?
        ask once, answer once, done: how?
        how do I run a single prompt?
        how do I get one reply and nothing else?
        can I ask directly from the shell prompt?
        is interactive use required?""",
    "no_stream": """
        I prefer to see the finished text in one go
        can the output wait until it is complete?
        no streaming please
        how can I turn streaming off?
        please print everything at the end
        I do not like watching the words come in one by one
        the reply should come as a whole
        is it possible to disable token streaming?
        what disables streaming?
        can I have the whole text at once?""",
    "prompt_file": """
        I wrote my question into a file
        can the prompt be read from a file?
        how do I pass question.txt?
        the prompt is too long for the command line, can I use a file?
        what loads the prompt from a file?
        can it take its question from a text file?
        I have a prompt file, how do I use it?
        here is my file with the question
        how do I run it on a text file?""",
    "batch": """
        many prompts at once, how?
        what about bulk processing?
        how can I run all prompts of a file?
        I want to process a jsonl file with prompts
        what are the options for a batch?
        can I run batch jobs?
        how do I save the replies of many prompts?
        I have lots of questions in a file, one per line
        answer five hundred questions for me, how?
        how do I feed in a list of questions?
        which flags are for batch work?""",
    "json": """
        json please
        I want to process the reply in a program
        is json supported?
        what turns on json output?
        can the reply be formatted as json?
        my script must read the reply, which format can I use?
        how is structured output switched on?
        which option prints json?
        the results should be machine readable
        jq should read it, what do I do?""",
    "timeout": """
        I cannot wait longer than a minute
        how can it be told to stop after ten seconds?
        what is the option for a time limit?
        I don't want to wait too long
        does it wait forever?
        how do I set the maximum time?
        abort after a number of seconds
        can an answer be limited in time?
        how do I specify the seconds it may take?
        after 60 seconds it should give up""",
    "model_flag": """
        I got a gguf file, how do I start it?
        how can I load another gguf?
        start bitnet-chat with my own model
        how do I tell bitnet-chat the model file?
        which option chooses the model?
        can I exchange the model?
        how do I run a model from my disk?
        I want to try a different gguf
        what loads a model file?
        how is another model selected?""",
    "engine_flag": """
        I have my own llama-cli binary, how do I use that?
        how do I say which engine binary to take?
        take this engine instead
        which flag is for the engine binary?
        where can I specify the engine executable?
        on the command line, how do I choose another engine?
        how do I make it use the engine that I built?
        how is the engine chosen?
        I compiled BitNet, how do I tell bitnet-chat?
        is there an option to select the engine?
        what points bitnet-chat to my binary?""",
    "io_pipe": """
        can the engine be driven over pipes?
        I have no pty
        ptys are forbidden here
        which option makes it use pipes?
        pipes please, no terminal
        is a pty required?
        how do I replace the pty?
        could the engine communicate through a pipe?
        in my container there is no pseudo-terminal
        what if ptys do not work?
        how do I get plain pipes to the engine?""",
    "typing_speed": """
        I want the typewriter effect
        can you type like a human?
        the reply flashes by, slow it down
        how do I make the display slower?
        how can I set the characters per second?
        what slows down the text?
        letters should come slowly
        I can't read that fast, can the text be slower?
        for a demo, the text should be typed slowly
        which option is for a typewriter?""",
    "chat_template": """
        the template in my gguf is broken
        can I force a template?
        how is the prompt format set?
        which flag overrides the template?
        use llama2 format please
        there is no template in my model file
        how do I make it use chatml?
        can the chat format be changed?
        what decides how messages are formatted for the model?
        which option is for the template?""",
    "system_flag": """
        on the command line, how do I set the system prompt?
        when I start bitnet-chat, how do I pass a system prompt?
        which flag is for the system message?
        can I set the system message before the chat begins?
        start bitnet-chat with a system prompt, how?
        from the shell I want to pass a system message
        what option starts it with a role?
        is there a flag for the system prompt?
        at launch I want a system prompt
        how is a system prompt given at startup?""",
    "max_tokens": """
        no more than 100 tokens please, how?
        how do I get replies of limited length?
        which option limits the answer length?
        I want short replies
        the reply should have at most 20 tokens
        can the reply size be limited?
        what caps the tokens of a reply?
        your answers are too long in general, is there a flag?
        set a limit on tokens
        how do I keep replies under a number of tokens?""",
    "temperature": """
        I want temperature 0.7
        how do I get less creative output?
        make the sampling more random
        how can randomness be reduced?
        which option sets the temperature?
        what makes the answers more varied?
        how do I turn the temperature up?
        is there a knob for creativity?
        can sampling be adjusted?
        how do I set temp to 0?""",
    "ctx": """
        I want a context of 2048
        how do I set a larger context window?
        our chat does not fit into the context
        how is the context length changed?
        which option is for the context size?
        can you remember more text?
        what makes the context bigger?
        how many tokens fit into the context, and can I change that?
        expand the context
        the chat is too long for the context, what can I do?""",
    "threads": """
        I have eight cores, use them all
        one thread only please
        how can I limit it to one core?
        which option is for threads?
        my CPU is at 100 percent, how do I use fewer threads?
        what sets the number of cores?
        run it with four threads
        how many processors should it take, where do I set that?
        can it run on more cores?
        my fan is loud, can it use less CPU?""",
    "seed": """
        I want the same result again
        the same question should give the same reply
        how is the random seed set?
        what option is for the seed?
        can I choose the random seed?
        how do I make the output repeatable?
        how do I fix the randomness so that it repeats?
        identical replies in every run, how?
        can the random generator be fixed?
        how do I rerun it and get exactly the same text?""",
    "extra_flags": """
        can additional engine options be given?
        I need a llama.cpp flag that is missing here
        how are engine options passed along?
        can bitnet-chat forward a flag to the engine?
        is there a way to give llama-cli its own arguments?
        where in the command do options for the engine stand?
        how do I use the double dash?
        some engine flag is not supported by you
        how can I add raw engine arguments?
        more flags for the engine, where?""",
    "engine_list": """
        engines?
        show me the engines that were found
        what engines can it see?
        list all the engines you know
        which engines were detected on this system?
        can I get an overview of the engines?
        how do I know which engines are there?
        which llama.cpp builds did it find?
        print all installed engines
        what command shows the engines?""",
    "engine_probe": """
        how do I test my llama-cli binary?
        will this engine work?
        can this binary be used as an engine?
        what does my engine support?
        tell me whether the engine is okay
        how can I check that my engine is usable?
        which command examines a binary?
        I built an engine, how do I check it?
        what checks an engine?
        what features does this engine have?
        is my engine too old?
        I want to test whether the binary works""",
    "engine_install": """
        no engine was found, what should I do?
        install llama.cpp for me
        llama-cli is missing
        which command sets up an engine?
        can an engine be installed automatically?
        how do I install the missing engine?
        I do not have llama.cpp yet
        can bitnet-chat fetch an engine?
        what installs an engine?
        there isn't any engine on my computer
        how do I get started without an engine?
        set up llama-cli for me please""",
    "version": """
        how old is my bitnet-chat?
        which bitnet-chat is this?
        tell me the release number
        what shows the version?
        how is the version displayed?
        I have to report the version, where is it?
        what release do I run?
        which option prints the version number?
        how can I see what version I have?""",
    "usage": """
        all options please
        how do I get the list of flags?
        I need the usage of the command line
        which command line arguments are accepted?
        what can I pass to bitnet-chat on the command line?
        where can I read about the flags?
        describe the command line options
        what parameters does bitnet-chat support?
        is there a list of all switches?
        what lists every flag?
        show the command line usage""",
    "config": """
        can flags be made permanent?
        the same options every time, can I store them?
        I want to save my flags
        in which file are the defaults?
        what is the settings file called?
        how do I keep an option for the next time?
        is it configurable?
        which file do I edit to configure it?
        how are defaults changed?
        can I write my options into a file?
        what file does bitnet-chat read at start?""",
    "engine_variable": """
        which env variable do I need?
        is there a variable for the engine?
        export what for the engine?
        what do I export to choose the engine?
        how do I set the engine in my shell profile?
        in .bashrc, how do I set the engine?
        does it read environment variables?
        can an environment variable select the engine?
        which variable should point to my llama-cli?
        environment variable for the engine path?""",
    "real_model": """
        I want a smarter model
        you are too small, what else is there?
        can I have a larger model?
        are there bigger models to download?
        I need a model that knows more
        what would be a better model than you?
        which gguf should I get?
        from where can I download a real BitNet?
        what model do you suggest for real work?
        you know nothing, give me a better model
        how do I find a model that is more intelligent?
        where are larger models?""",
    "greeting": """
        hello, how nice to meet you
        good day
        hi friend
        hey buddy
        hello dear
        well hi
        hi everyone
        hello world
        hey bot, good morning
        nice to meet you
        good to see you
        hello again
        hi, I am back
        hiya""",
    "how_are_you": """
        how do you feel today?
        are you feeling good?
        is everything fine?
        how is your day?
        hello, how are you?
        hi, how are you doing?
        you okay?
        I hope you are fine
        how is life?""",
    "thanks": """
        thank you so much
        ah, thanks
        oh great, thank you
        wonderful, thank you
        I am grateful
        thanks, that was useful
        nice, thanks
        very kind of you, thanks
        thank you, bot
        merci
        thanks for everything
        I want to thank you""",
    "bye": """
        okay, bye
        well then, bye
        goodbye my friend
        I must go, goodbye
        that was all, bye
        bye for now
        so long
        have a nice day, bye
        ciao""",
    "who": """
        who is this?
        are you a machine?
        are you a human being?
        is there a person behind this?
        am I chatting with a computer?
        say who you are
        can you introduce yourself?
        tell me your name
        which assistant are you?
        do I talk to a real human?
        what is your name, bot?""",
    "abilities": """
        tell me what you can do
        what are you able to do?
        what are you capable of?
        which questions can you answer?
        which things do you know?
        what subjects can you talk about?
        what may I ask?
        how can you be useful?
        what do you know about?""",
    "size": """
        are you small?
        how many MB do you have?
        how many bytes are you?
        what is the size of your file?
        are you big or small?
        how tiny are you?
        how much space do you need on disk?
        is your model large?""",
    "bitnet": """
        what are ternary models?
        I do not know BitNet, explain it
        why are the weights ternary?
        how do ternary weights work?
        what is the idea of BitNet?
        why is BitNet fast?
        what do the weights of BitNet look like?
        explain ternary weights to me
        explain 1.58 bits
        what is so good about BitNet models?""",
    "product": """
        what kind of tool is this?
        describe this program
        what is the purpose of bitnet-chat?
        what is bitnet-chat good for?
        what sort of program is this?
        explain this tool to me
        what does this program do?
        can you describe bitnet-chat?
        what is this software for?""",
    "joke": """
        do you know any jokes?
        can you be funny?
        I need a laugh
        entertain me
        something funny please
        tell me another joke
        got a good joke?
        please make a joke""",
    "emoji": """
        send me emoji
        write emoji
        I want to see emojis
        show smileys
        can I have some smileys?
        what emojis do you have?
        a few emojis please
        do emojis work here?""",
    "mood": """
        I feel good
        I feel wonderful today
        you did well
        you are doing a great job
        that is nice
        that was good
        this is great
        my day is good
        I am in a good mood
        I am so happy today
        that was a good answer
        yes, very good""",
    "sad": """
        I feel sad
        I am feeling bad today
        I am exhausted
        today is terrible
        I had an awful day
        I am so angry
        so tired
        I feel lonely
        what a horrible day
        you make me angry
        that is a bad answer
        I am frustrated""",
    "chinese": """
        你好，朋友
        你好啊
        大家好
        你好，世界
        嗨，你好
        晚上好
        do you understand Chinese?
        please greet me in Chinese
        Chinese please
        talk Chinese
        say something in Chinese""",
    "japanese": """
        こんにちは、世界
        こんにちは！
        やあ、こんにちは
        お元気ですか？
        元気ですか？
        do you understand Japanese?
        please greet me in Japanese
        Japanese please
        talk Japanese
        say something in Japanese""",
    "korean": """
        안녕하세요!
        안녕하세요, 세계
        여러분 안녕하세요
        안녕, 반가워
        잘 지내요?
        do you understand Korean?
        please greet me in Korean
        Korean please
        talk Korean
        say something in Korean""",
    "chinese_help": """
        怎么使用？
        你有什么命令？
        这个怎么用？
        命令有哪些？
        请帮助我""",
    "chinese_exit": """
        我要退出
        怎么离开？
        怎样退出程序？
        请退出
        如何关闭程序？""",
    "japanese_exit": """
        終了したい
        終了方法は？
        どうやって終わりますか？
        終了してください
        やめたい""",
    "story": """
        story please
        tell me a very long story
        can you write a long story?
        do you know a story?
        tell us a nice tale
        I would like a fairy tale
        please tell a story
        a long text please""",
    "count": """
        count up to 100
        please count from one to one hundred
        numbers from 1 to 100 please
        show all numbers up to 100
        start counting
        1 to 100 please
        can you list the numbers 1 to 100?""",
    "python": """
        a Python script please
        write a little program
        can you show me a code example?
        give me some Python code
        can you write a script for me?
        an example program please
        please write code
        I want to see Python""",
    "table": """
        draw a table
        I want a table
        a Markdown table please
        can you make a small table?
        show the commands as a table""",
    "markdown": """
        write a list
        a bullet list please
        can you make a list?
        I want to see Markdown
        some Markdown please
        format something in Markdown""",
    "unknown": """
        where is {thing}?
        when did {thing} begin?
        when did {thing} end?
        how many {thing} are there?
        what is the biggest {thing}?
        what's the largest city in {thing}?
        how much does {thing} cost?
        who discovered {thing}?
        who painted {thing}?
        how many people live in {thing}?
        what color is {thing}?
        can you explain {thing}?
        could you tell me about {thing}?
        what does {thing} look like?
        does {thing} have legs?
        how many legs does {thing} have?
        why does {thing} exist?
        what are the parts of {thing}?
        is {thing} dangerous?
        can I eat {thing}?
        how fast is {thing}?
        how heavy is {thing}?
        how long does {thing} live?
        what happened to {thing}?
        name three facts about {thing}
        compare {thing} and {thing}
        which is better, {thing} or {thing}?
        give me a recipe for {thing}
        how do I learn {thing}?
        what year was {thing} built?
        teach me {thing}
        who is the king of {thing}?
        what language do they speak in {thing}?
        what is the population of {thing}?
        should I buy {thing}?
        what is the history of {thing}?
        did you see {thing}?
        what is the square root of 16?
        add 5 and 7
        convert 10 miles to kilometers""",
}

# A second held-out set, written while the final model was training and asked once, when it was finished. The first
# held-out set was looked at between two trainings, so this one is the more honest measure.
BLIND_QUESTIONS: dict[str, str] = {
    "help": """
        can I see everything that this chat understands?
        please show the list of slash commands""",
    "exit": """
        what do I type if I want to leave the chat?
        time to go, how can I exit bitnet-chat?""",
    "clear": """
        how would I make you forget this whole conversation?
        I want to clear our chat history""",
    "regen": """
        I'd like a different answer to that question
        how can I get you to answer the last question again?""",
    "undo": """
        could I delete just my last message?
        how can one take back the last question?""",
    "system": """
        while chatting, how can I set a new system prompt?
        how do I make you behave like a chef?""",
    "stats": """
        where do I see how many tokens we have used so far?
        can you show me your tokens per second?""",
    "model_command": """
        how do I see what model is currently loaded?
        what's the name of the model I'm using?""",
    "send": """
        what key do I press to send my question?
        how do I send this text to you?""",
    "newline": """
        how can I add a line break to my message?
        I want to type a message of four lines""",
    "search_history": """
        what's the key for searching through my old questions?
        how can I find an earlier message again?""",
    "editor": """
        can I open vim to write a longer message?
        how do I use my own editor for a prompt?""",
    "complete": """
        can commands be completed with a key?
        how do I autocomplete what I type after the slash?""",
    "stop_reply": """
        the reply is far too long, how can I stop it now?
        which key interrupts you while you are writing?""",
    "clear_line": """
        how can I delete the line that I have typed so far?
        what's the key to clear the current input line?""",
    "one_shot": """
        how can I ask one question directly in the shell?
        can I run it with a single question and exit?""",
    "no_stream": """
        how can I get the complete answer at the end and no streaming?
        is there an option to disable streaming?""",
    "prompt_file": """
        can I have it read my question from a text file?
        which flag do I use if my prompt is in a file?""",
    "batch": """
        how do I answer a whole file of prompts?
        what flags do I need for batch processing?""",
    "json": """
        can I get the output in JSON format?
        which flag makes the output JSON?""",
    "timeout": """
        can I limit the time for a reply to 30 seconds?
        how do I make it stop if it takes too long?""",
    "model_flag": """
        how do I run bitnet-chat with a different model file?
        which flag lets me choose a gguf?""",
    "engine_flag": """
        which flag do I use to choose another engine binary?
        how do I use the llama-cli that I compiled?""",
    "io_pipe": """
        can I use a pipe and not a pseudo-terminal?
        how do I run it when there is no pty?""",
    "typing_speed": """
        can the reply be typed out slowly like on a typewriter?
        how do I set how many characters appear per second?""",
    "chat_template": """
        which flag is used to set another chat template?
        how can I change the prompt format?""",
    "system_flag": """
        which command line flag sets a system prompt?
        how can I launch bitnet-chat with a system message?""",
    "max_tokens": """
        how can I keep the replies short with a token limit?
        what flag limits the number of tokens in a reply?""",
    "temperature": """
        how do I lower the temperature?
        can the answers be made more creative?""",
    "ctx": """
        how do I get a larger context size?
        what flag changes the context window?""",
    "threads": """
        how do I choose the number of CPU threads?
        can I make it use all the cores of my machine?""",
    "seed": """
        how do I set a fixed seed?
        can I get the very same answer on every run?""",
    "extra_flags": """
        how do I pass an extra option to the engine?
        where can I put additional llama-cli flags?""",
    "engine_list": """
        how can I see a list of engines?
        which engines are available on this computer?""",
    "engine_probe": """
        how can I test whether an engine works?
        can you check if this binary is a good engine?""",
    "engine_install": """
        how would I install an engine on this machine?
        I have no llama-cli, how do I get it?""",
    "version": """
        how do I find out the version of bitnet-chat?
        what is my current version?""",
    "usage": """
        can I see a list of all the command line flags?
        how do I get help on the command line options?""",
    "config": """
        where can I save my default options?
        what is the name of the config file?""",
    "engine_variable": """
        what environment variable can I set for the engine?
        how do I choose the engine with an environment variable?""",
    "real_model": """
        where can I get a bigger and better model?
        how do I download a real BitNet model?""",
    "exit_ok": "what is the meaning of exit code 0?",
    "exit_usage": "my command returned exit code 2, why?",
    "exit_no_engine": "what's exit code 3 about?",
    "exit_bad_model": "what is the meaning of exit code 4?",
    "exit_engine_died": "what number do I get if the engine has crashed?",
    "exit_overflow": "what's exit code 6 about?",
    "exit_timeout": "my command returned exit code 124, why?",
    "exit_interrupted": "what's exit code 130 about?",
    "greeting": "hi there, good evening",
    "how_are_you": "hello, how are you doing today?",
    "thanks": "thanks, you helped me a lot",
    "bye": "okay, goodbye then",
    "who": "can you tell me who you are?",
    "abilities": "what can you help me with?",
    "size": "how many megabytes is your file?",
    "bitnet": "could you tell me what BitNet is?",
    "product": "what exactly does bitnet-chat do?",
    "joke": "can you tell me another joke?",
    "emoji": "can you show me a few emojis?",
    "mood": "I am doing great today",
    "sad": "I am feeling very sad",
    "chinese": "你好！你会中文吗？",
    "japanese": "こんにちは、お元気ですか？",
    "korean": "안녕하세요, 반갑습니다",
    "story": "can you write me a long story?",
    "count": "can you count all the way to 100?",
    "python": "can you show me a Python program?",
    "table": "please print a Markdown table",
    "markdown": "please make a list in Markdown",
    "unknown": """
        what is the capital of Italy?
        how do I bake bread?""",
}
